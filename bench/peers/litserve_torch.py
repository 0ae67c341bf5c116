"""LitServe over eager torch."""

from bench.peers.litserve_api import make_torch, serve

if __name__ == "__main__":
    serve(make_torch)
