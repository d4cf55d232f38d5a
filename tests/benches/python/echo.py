"""The worker of the benchmark."""

from ostler_worker import serve


@serve.method
def echo(value):
    return value


if __name__ == "__main__":
    serve.run()
