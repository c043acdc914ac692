"""Link the top-level folders into build/typing/obeql so that tools which read files see one package.

Type checkers and import-linter do not run the import hooks of an editable install.
"""

from pathlib import Path

root = Path(__file__).resolve().parent.parent
target = root / "build" / "typing" / "obeql"
target.mkdir(parents=True, exist_ok=True)
for stale in target.iterdir():
    stale.unlink()
for source in (root / "obeql").iterdir():
    if source.name != "__pycache__":
        (target / source.name).symlink_to(source)
for folder in ("grammar", "planner", "executor"):
    (target / folder).symlink_to(root / folder)
