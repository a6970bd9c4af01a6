"""Users of the service for locust: `locust -f benchmarks/serving/locustfile.py --host http://localhost:8000`.

Each user sends one image after the other, one of ten of them three at once in a form. A user who is answered
429 waits as long as the service says.
"""

import random

import gevent
from locust import FastHttpUser, constant, task

from benchmarks.serving.model import png_files

PNG = png_files(64)


class User(FastHttpUser):
    wait_time = constant(0)

    @task(9)
    def predict(self) -> None:
        headers = {"Content-Type": "image/png"}
        self._post(random.choice(PNG), headers, "one image")

    @task(1)
    def predict_several(self) -> None:
        boundary = "----images"
        parts = b"".join(
            b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n'
            % (boundary.encode(), image)
            for image in random.sample(PNG, 3)
        )
        body = parts + f"--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self._post(body, headers, "three images")

    def _post(self, body: bytes, headers: dict[str, str], name: str) -> None:
        answer = self.client.post("/v1/predict", data=body, headers=headers, name=name)
        if answer.status_code == 429:
            gevent.sleep(int(answer.headers["Retry-After"]))
