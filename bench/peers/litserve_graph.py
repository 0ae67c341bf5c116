"""LitServe over the bundle's graph."""

from bench.peers.litserve_api import make_graph, serve

if __name__ == "__main__":
    serve(make_graph)
