"""A small S3 server for tests: the protocol over HTTP, the objects in its memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.servers import missing

BUCKET = "intentloop"


@contextmanager
def s3_environment() -> Iterator[Mapping[str, str]]:
    """The environment variables by which a process reaches a server with the bucket `intentloop`."""
    try:
        import obstore  # noqa: F401
        from boto3 import client
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        missing(f"the package {error.name} (part of the extra dev)")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }
        client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        server.stop()
