"""Functions that the benchmarks share. Each part runs in its own process. Comparisons print rows of a table."""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(script, description, comparisons, parts, data_help):
    """Run a benchmark's command line: print the table of all comparisons, or run one part for `measure`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help=data_help)
    parser.add_argument("--only", choices=comparisons, help="run only this comparison")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each comparison (default: 3)")
    parser.add_argument("--part", choices=[*parts, native_precisions.__name__], help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.script = script
    if arguments.part:
        part = (parts | {native_precisions.__name__: native_precisions})[arguments.part]
        print(json.dumps(part(arguments.data, *([arguments.precision] if arguments.precision else []))))
        return
    print(f"{processor()}\n")
    print(
        "| what | precision | ours | peer | ratio | least .. most |\n| --- | --- | --- | --- | --- | --- |", flush=True
    )
    for name in [arguments.only] if arguments.only else comparisons:
        for cells in comparisons[name](arguments):
            print("| " + " | ".join(cells) + " |", flush=True)


def processor():
    """Return the name of the processor, with its number of cores and the flags that matter for speed."""
    names = [platform.processor() or platform.machine()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
        names += sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    return f"{os.cpu_count()} cores: {', '.join(dict.fromkeys(names))}"


def native_precisions(data=None):
    """List the precisions that this hardware multiplies natively: float32, and bfloat16 on recent hardware."""
    from atelier import hardware

    return ["float32"] + ["mixed_bfloat16"] * (hardware.device_kind() in hardware.BFLOAT16["convolutions"])


def measure(part, arguments, precision=None):
    """Run one part in its own process and return its result. `precision` is given to parts that take one."""
    command = [
        sys.executable,
        arguments.script,
        "--part",
        part,
        *(["--data", arguments.data] if arguments.data else []),
        *(["--precision", precision] if precision else []),
    ]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def row(what, precision, ours, peer, unit, more_is_better=True):
    """Return a row of the table: the medians of ours and of the peer, and the median and range of the turns' ratios.

    A ratio above 1 means that ours is better. `precision` is the precision of ours. The peer's is float32 unless `what`
    says otherwise.
    """
    ratios = [a / b if more_is_better else b / a for a, b in zip(ours, peer, strict=True)]
    a, b = statistics.median(ours), statistics.median(peer)
    spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
    return what, precision, f"{a:.4g} {unit}", f"{b:.4g} {unit}", f"{statistics.median(ratios):.2f}x", spread


def take_turns(parts, arguments):
    """Measure the `parts` one after the other, --repeats times. Return a tuple of results for each part.

    A part is a name or (name, precision).
    """
    calls = [(part,) if isinstance(part, str) else part for part in parts]
    turns = ([measure(part, arguments, *precision) for part, *precision in calls] for _ in range(arguments.repeats))
    return zip(*turns, strict=True)


def timed(command):
    """Run one of our scripts as a user does. Return the seconds that it took, and its standard output."""
    started = time.perf_counter()
    output = subprocess.run([sys.executable, *command, "--quiet"], cwd=ROOT, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, output.stdout


def peak(script, *command):
    """Run one of our scripts; return its peak memory in GB."""
    process = subprocess.Popen([sys.executable, script, *map(str, command), "--quiet"], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} failed")
    return usage.ru_maxrss / 2**20


def torch_vgg(last):
    """Return VGG16 up to the layer `last`, in plain PyTorch with our weights: (layer names, Sequential)."""
    import torch

    from atelier.networks import pretrained

    layers, names = [], []
    for layer in pretrained.load_vgg()[0].layers[1:]:
        if layer.name.endswith("pool"):
            layers.append(torch.nn.MaxPool2d(2))
        else:
            kernel, bias = layer.get_weights()
            convolution = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
            convolution.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            convolution.bias.data = torch.from_numpy(bias)
            layers.append(torch.nn.Sequential(convolution, torch.nn.ReLU()))
        names.append(layer.name)
        if layer.name == last:
            break
    return names, torch.nn.Sequential(*layers).requires_grad_(False)
