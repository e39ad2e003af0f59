"""Where in vLLM's code a failure happened: what the lines of a traceback tell."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..outcome import PHASES, Phase

_FRAME = re.compile(
    r'File "(?P<path>[^"]+)", line (?P<line>\d+),? in (?P<name>[\w.<>]+)|'
    r"File (?P<path2>\S+\.py):(?P<line2>\d+), in (?P<name2>[\w.<>]+)"  # IPython
)
_ARROW = re.compile(r"-+> ?\d+ +(?P<code>.+)")
_METHOD = re.compile(r"(?:processing method|Error executing method) '?(\w+)")

# Which phase a function of vLLM's belongs to; names are from 0.5.5 to 0.33.
_FUNCTIONS: Mapping[Phase, str] = {
    "config": "create_engine_config create_model_config create_speculative_config get_config "
    "ModelConfig initialize_ray_cluster _get_executor_cls",
    "load": "init_device load_model load_weights weight_loader create_weights initialize_model "
    "process_weights_after_loading init_worker_distributed_environment get_model build_model "
    "init_distributed_environment ensure_model_parallel_initialized initialize_model_parallel "
    "_initialize_model _load_model download_model download_weights_from_hf _load_module "
    "marlin_permute_scales gptq_marlin_repack gpu_p2p_access_check _init_workers_ray "
    "_get_model_initialization_kwargs _init_executor",
    "profile": "determine_num_available_blocks determine_available_memory profile_run "
    "profile_cudagraph_memory profile_multimodal _dummy_mm_run profile_encoder_cache",
    "kv_cache": "get_kv_cache_config get_kv_cache_configs check_enough_kv_cache_memory "
    "initialize_kv_cache initialize_cache initialize_from_config unify_hybrid_kv_cache_specs "
    "_allocate_kv_cache",
    "graphs": "capture_model capture_graph capture _capture_cudagraphs capture_graphs",
    "warmup": "compile_or_warm_up_model StructuredOutputManager kernel_warmup "
    "warm_up_model flashinfer_autotune _dummy_sampler_run",
    "serving": "execute_model generate run_busy_loop run_engine_loop engine_step "
    "start_worker_execution_loop _process_engine_step update_from_output step_async "
    "handle_request",
}
_PHASE_OF: Mapping[str, Phase] = {
    name: phase for phase, names in _FUNCTIONS.items() for name in names.split()
}
_CALL = re.compile(rf"\b({'|'.join(_PHASE_OF)})\(")
# What looks at images, videos and sounds, in a profiling run or for a request (0.6.6 to 0.32).
_OF_MEDIA = {
    *("profile_multimodal", "_dummy_mm_run", "profile_encoder_cache", "embed_multimodal"),
    *("get_multimodal_embeddings", "execute_mm_encoder", "_execute_mm_encoder"),
    *("_process_image_input", "_process_video_input", "_process_audio_input"),
}
# What the engine calls while it profiles and warms up as well as for a request.
_IN_EVERY_PHASE = {"execute_model", "capture", "_dummy_sampler_run"}


@dataclass(slots=True)
class Trace:
    """The traceback that was read last: its last frame, the code there, and the phase it shows.

    `phase` is None where no frame tells it. `of_media`: it is about an image, a video or a sound.
    """

    phase: Phase | None = None
    of_media: bool = False
    _frame: str = ""
    _code: str = ""
    _of_vllm: bool = False
    _open: bool = False  # the code of the frame is still to come

    def begin(self) -> None:
        """Forget the frames of the traceback before; the phase it showed stays."""
        self._frame, self._code, self._of_vllm, self._open = "", "", False, False
        self.of_media = False

    def read(self, text: str, *, may_be_code: bool = True) -> bool:
        """Read one line of a traceback; return whether it is one."""
        if frame := _FRAME.search(text):
            self._enter(frame)
        elif arrow := _ARROW.match(text):
            self._take_code(arrow["code"])
        elif self._open and may_be_code and text:
            self._open = False
            self._take_code(text)
        else:
            return False
        return True

    def read_code(self, text: str) -> None:
        """Read a line that is indented like the code under a frame."""
        if not self.read(text):
            self._note_call(text)

    def note_request(self) -> None:
        """Note that what serves a request wrote a line."""
        self.phase = self.phase or "serving"

    def read_method(self, text: str) -> None:
        """Read the name of the method that a worker says it failed in."""
        if found := _METHOD.search(text):
            self._note(found[1])

    @property
    def where(self) -> str:
        """The last frame, of vLLM's if there is one, as `linear.py:589 in weight_loader`."""
        return self._frame

    @property
    def code(self) -> str:
        return self._code

    def _enter(self, frame: re.Match[str]) -> None:
        path = frame["path"] or frame["path2"]
        name = frame["name"] or frame["name2"]
        of_vllm = "vllm" in path
        file = re.split(r"[/\\]", path)[-1]
        if file.startswith("serving"):
            self.note_request()
        if of_vllm or not self._of_vllm:
            self._frame = f"{file}:{frame['line'] or frame['line2']} in {name}"
            self._of_vllm, self._open, self._code = of_vllm, True, ""
        self._note(name.rpartition(".")[2])

    def _take_code(self, text: str) -> None:
        self._code = text.strip()
        self._note_call(text)

    def _note_call(self, text: str) -> None:
        if call := _CALL.search(text):
            self._note(call[1])

    def _note(self, name: str) -> None:
        phase = _PHASE_OF.get(name)
        self.of_media = self.of_media or name in _OF_MEDIA
        if phase and (name not in _IN_EVERY_PHASE or self.phase is None):
            self.phase = phase


def later(milestone: Phase, shown: Phase | None) -> Phase:
    """Return the phase of a failure, from the last milestone and what the frames show.

    A milestone may not have been logged. That a request runs is believed only where nothing was
    logged, or the end of the start: profiling and warming up look the same from inside.
    """
    if shown is None:
        return milestone
    if shown == "serving" and milestone not in ("spawn", "graphs", "warmup"):
        return milestone
    return max(milestone, shown, key=PHASES.index)
