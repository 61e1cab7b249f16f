"""`python -m lazyvid.training fit --config run.yaml`: trains what a YAML file describes, as `lazyvid fit` does."""

from __future__ import annotations

from lazyvid.training.run import run

if __name__ == "__main__":
    run()
