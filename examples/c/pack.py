"""Makes a library of a network in C for another build system: ``python examples/c/pack.py out/ lib/ --for arduino``.

``out/`` is what ``tern-export --tvm-target c`` has written; ``lib/`` becomes the library's folder:

* ``arduino``: goes into the sketchbook's ``libraries``, with an example sketch;
* ``platformio``: goes into a project's ``lib``;
* ``zephyr``: a module, for ``-DZEPHYR_EXTRA_MODULES=$PWD/lib``; ``CONFIG_<NAME>=y`` takes it into a build.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

VERSION = "1.0.0"

ARDUINO = """\
name={name}
version={version}
author=tern-export
maintainer=tern-export
sentence=A network with ternary weights as C.
paragraph={tables} bytes of tables, {arena} bytes of RAM.
category=Data Processing
url=https://pypi.org/project/tern-lightning/
architectures=*
includes={name}.h
"""

SKETCH = """\
/* Runs the network on the sample of its export and compares the output. */
#include <{name}.h>
#include <{name}_sample.h>

static {name}_output_type output[{upper}_OUTPUT_ELEMENTS];

void setup()
{{
    Serial.begin(115200);
}}

void loop()
{{
    const unsigned long started = micros();
    const int status = {name}_run({name}_sample_input, output);
    const unsigned long spent = micros() - started;
    Serial.print(status == 0 && memcmp(output, {name}_sample_output, sizeof output) == 0 ? "right, " : "WRONG, ");
    Serial.print(spent);
    Serial.println(" us");
    delay(1000);
}}
"""

ZEPHYR_CMAKE = """\
if(CONFIG_{upper})
  zephyr_library()
  zephyr_library_sources(src/{name}.c)
  zephyr_library_compile_options(-O3)
  zephyr_include_directories(src)
endif()
"""

ZEPHYR_MODULE = """\
name: {name}
build:
  cmake: .
  kconfig: Kconfig
"""

ZEPHYR_KCONFIG = """\
config {upper}
\tbool "The network {name}"
\thelp
\t  A network with ternary weights: {tables} bytes of tables, {arena} bytes of RAM.
"""


def files(system: str, words: Mapping[str, str]) -> dict[str, str]:
    """The text files that a build system wants beside the sources, by path."""
    name = words["name"]
    if system == "arduino":
        return {"library.properties": ARDUINO, f"examples/{name}_demo/{name}_demo.ino": SKETCH}
    if system == "zephyr":
        return {"CMakeLists.txt": ZEPHYR_CMAKE, "zephyr/module.yml": ZEPHYR_MODULE, "Kconfig": ZEPHYR_KCONFIG}
    described = {
        "name": name,
        "version": VERSION,
        "description": "A network with ternary weights as C.",
        "frameworks": "*",
        "platforms": "*",
        "headers": f"{name}.h",
        "build": {"srcDir": "src", "includeDir": "src", "flags": ["-O3"]},
    }
    return {"library.json": json.dumps(described, indent=2).replace("{", "{{").replace("}", "}}") + "\n"}


def pack(artifact: Path, library: Path, system: str) -> None:
    """Writes the library's folder, which must not be there yet."""
    metadata = json.loads((artifact / "metadata.json").read_text())
    target = metadata["target"]["tvm"]
    if target["kind"] != "c":
        raise SystemExit(f"{artifact} is not C: it was exported for {metadata['target']['name']}")
    name = target.get("prefix", "model")
    words = {
        "name": name,
        "upper": name.upper(),
        "version": VERSION,
        "tables": f"{metadata['memory']['constant_bytes']:,}",
        "arena": f"{metadata['memory']['arena_bytes']:,}",
    }
    (library / "src").mkdir(parents=True)
    for ending in (".c", ".h", "_weights.h", "_sample.h"):
        if (artifact / f"{name}{ending}").exists():
            shutil.copy2(artifact / f"{name}{ending}", library / "src")
    for path, text in files(system, words).items():
        (library / path).parent.mkdir(parents=True, exist_ok=True)
        (library / path).write_text(text.format(**words))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a library of a network in C.")
    parser.add_argument("artifact", type=Path, help="what tern-export --tvm-target c has written")
    parser.add_argument("library", type=Path, help="folder to make")
    parser.add_argument("--for", dest="system", choices=("arduino", "platformio", "zephyr"), required=True)
    given = parser.parse_args(arguments)
    if given.library.exists():
        parser.error(f"{given.library} is there already")
    pack(given.artifact, given.library, given.system)
    print(f"{given.library}: a library for {given.system}")


if __name__ == "__main__":
    main()
