"""What importing some modules imports, too: in a process of its own."""

import subprocess
import sys


def loaded_by(modules, libraries):
    """Return those of some libraries that importing the modules imports."""
    code = f"import sys, {modules}; print(*sorted({set(libraries)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()
