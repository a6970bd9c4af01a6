"""The page at `/`: static files, which hold no secret and may be asked for without a key."""

from importlib.resources import files

from fastapi import APIRouter, Response

#: Path of each file, its name in the folder `page`, and its type.
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

#: The page loads its own files and asks its own service, and nothing else; images come as blobs, since a
#: key can be sent with a request of a script only.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def page_routes() -> APIRouter:
    """Return the routes of the page's files, each read once."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in PAGE_FILES.items():
        _add_file(router, path, name, media_type)
    return router


def _add_file(router: APIRouter, path: str, name: str, media_type: str) -> None:
    content = files(__package__).joinpath("page", name).read_bytes()
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}

    @router.get(path)
    async def file() -> Response:
        return Response(content, headers=headers, media_type=media_type)
