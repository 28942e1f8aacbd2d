"""What the code never does, by its syntax tree; ruff's rules S find the same and more."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("zoo", "datamodules", "envs", "callbacks", "planning", "export", "src/jepakit", "benchmarks", "examples")
PICKLE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ARCHIVES = {"tarfile", "zipfile"}
# The one module that reads pickles, with an unpickler that knows no function; BadZipFile, an exception; is_zipfile.
ALLOWED = {
    ("datamodules/readers/pickles.py", "pickle"),
    ("datamodules/store/reader.py", "zipfile"),
    ("src/jepakit/checkpoints.py", "zipfile"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "shutil.unpack_archive"),
    *("torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load", "pd.read_pickle"),
}


def sources():
    files = {path.resolve() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert len(files) > 200
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(files)}


def findings(file, source):
    """What is forbidden in a file, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in {name.partition(".")[0] for name in names} & (PICKLE | ARCHIVES):
                if (file, name) not in ALLOWED:
                    yield f"{file}:{node.lineno}: import {name}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wrong = name in FORBIDDEN_CALLS
            wrong |= name == "torch.load" and given.get("weights_only") != "True"
            wrong |= name.endswith("load_from_checkpoint")
            wrong |= name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
            wrong |= given.get("shell", "False") != "False" or given.get("trust_remote_code", "False") != "False"
            if wrong:
                yield f"{file}:{node.lineno}: {ast.unparse(node)}"


def test_nothing_from_outside_is_run():
    assert [found for file, source in sources().items() for found in findings(file, source)] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "import tarfile", "eval(text)", "exec(text)"),
        *("torch.load(file)", "torch.load(file, weights_only=False)", "np.load(file, allow_pickle=True)"),
        *("yaml.load(text)", "subprocess.run(line, shell=True)", "os.system(line)", "LeWM.load_from_checkpoint(file)"),
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert len(list(findings("zoo/new.py", line))) == 1
