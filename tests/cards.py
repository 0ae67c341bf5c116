"""A GPU for machines that have none: CUDA, played by the CPU."""

import numpy as np
import onnxruntime
import pytest

from service.engine import session


class Card:
    """A CPU session that says it is CUDA's: it notes what is bound to the device, and does the work here."""

    def __init__(self, path: str, options: object, providers: list[object]) -> None:
        self.providers = providers
        self.bound: list[tuple[str, str]] = []
        self._session = SESSION(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_outputs(self) -> list[object]:
        return list(self._session.get_outputs())

    def io_binding(self) -> "Card":
        self._binding = self._session.io_binding()
        return self

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.bound.append((name, "in"))
        self._binding.bind_ortvalue_input(name, value)

    def bind_output(self, name: str, device: str) -> None:
        self.bound.append((name, device))
        self._binding.bind_output(name, "cpu")

    def run_with_iobinding(self, binding: "Card") -> None:
        self._session.run_with_iobinding(binding._binding)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._binding.copy_outputs_to_cpu()
        return outputs


SESSION = onnxruntime.InferenceSession


def play(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Play CUDA, as far as a CPU can. Returns the list of the devices that arrays will be sent to."""
    sent: list[tuple[str, int]] = []
    send = onnxruntime.OrtValue.ortvalue_from_numpy

    def to_device(array: np.ndarray, device: str, number: int) -> onnxruntime.OrtValue:
        sent.append((device, number))
        return send(array)

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(session.ort, "InferenceSession", Card)
    monkeypatch.setattr(session.ort.OrtValue, "ortvalue_from_numpy", to_device)
    return sent
