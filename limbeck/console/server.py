"""Start a console and run it until a signal."""

from __future__ import annotations

import sys

import uvicorn

from limbeck.console.accounts import Accounts
from limbeck.console.app import make_app
from limbeck.console.options import Options, check, check_runs


def run(options: Options) -> None:
    """Serve a console; blocks.

    Raises:
        InputError: It would be open to strangers, or cannot listen.
    """
    from serving.gateway.uvicorn_server import listening

    check_runs(options)
    accounts = Accounts(options.state)
    try:
        check(options, accounts)
        with listening(options.host, options.port) as listener:
            server = uvicorn.Server(uvicorn.Config(
                make_app(options, accounts), log_level="warning", lifespan="on", ws="none", server_header=False,
                ssl_certfile=options.certificate, ssl_keyfile=options.key, proxy_headers=False,
                timeout_graceful_shutdown=3,
            ))
            scheme = "https" if options.certificate else "http"
            host, port = listener.getsockname()[:2]
            print(f"console: {scheme}://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
            server.run(sockets=[listener])
    finally:
        accounts.close()
