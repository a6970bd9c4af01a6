# The web page of the prediction service: its static files, and a proxy to the service, which is reached as `backend`.
# From the repository's root:
#
#   docker build --file dockerfiles/frontend.Dockerfile --tag captcha-assets-frontend .
#   docker run --network captcha --publish 8080:8080 captcha-assets-frontend    # a network in which `backend` is the service

FROM nginx:1.28.0-bookworm
LABEL org.opencontainers.image.title="captcha-assets frontend" \
    org.opencontainers.image.description="Serves the web page; passes its requests on to the backend" \
    org.opencontainers.image.licenses="MIT"
COPY dockerfiles/frontend.nginx.conf /etc/nginx/nginx.conf
COPY captcha_assets/serving/page /usr/share/nginx/page
USER 10001
EXPOSE 8080
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/page.js"]
ENTRYPOINT ["nginx"]
CMD ["-g", "daemon off;"]
