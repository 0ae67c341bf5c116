"""The services that Bertie is measured against, each a program of its own; `roster` describes them."""
