"""Folders laid out as Bench2Drive and CARLA are, whose programs are stand-ins that really run."""

import shlex
import shutil
import sys
from pathlib import Path

from student.serving.agent_file import write_agent
from tests.student.supervision.driving import EVALUATOR

CARLA_MODULE = """
import json, socket

class VehicleControl:
    pass

class Client:
    def __init__(self, host, port):
        with socket.create_connection((host, port), 5) as connection:
            self.told = json.loads(connection.makefile().readline())
    def set_timeout(self, seconds):
        pass
    def get_server_version(self):
        return self.told["version"]
    def get_client_version(self):
        return "0.9.15"
    def get_available_maps(self):
        return self.told["maps"]
"""
SERVER = """
import json, os, socket, sys, time
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:] if "=" in word)
assert {"-RenderOffScreen", "-nosound"} <= {*sys.argv}
state = json.load(open(os.path.join(os.path.dirname(__file__), "state.json")))
if options["graphicsadapter"] in state["broken_gpus"]:
    print("vkCreateInstance failed")
    sys.exit(1)
listening = socket.create_server(("", int(options["carla-rpc-port"])))
os.fork()
while True:
    connection, _ = listening.accept()
    with connection:
        connection.sendall(json.dumps(state).encode() + b"\\n")
"""
AUTONOMOUS_AGENT = "class AutonomousAgent:\n    pass\n"


def install(folder: Path) -> tuple[Path, Path]:
    """Make both folders, with the agent file, and return them."""
    tree, carla = folder / "Bench2Drive", folder / "CARLA"
    package = tree / "leaderboard/leaderboard"
    (package / "autoagents").mkdir(parents=True)
    for file in (package / "__init__.py", package / "autoagents/__init__.py", tree / "leaderboard/cv2.py"):
        file.write_text("")
    (package / "autoagents/autonomous_agent.py").write_text(AUTONOMOUS_AGENT)
    shutil.copy(EVALUATOR, package / "leaderboard_evaluator.py")
    (tree / "leaderboard/data").mkdir()
    write_agent(tree)
    (carla / "PythonAPI/carla").mkdir(parents=True)
    (carla / "PythonAPI/carla/carla.py").write_text(CARLA_MODULE)
    (carla / "server.py").write_text(SERVER)
    program = carla / "CarlaUE4.sh"
    python, server = shlex.quote(sys.executable), shlex.quote(str(carla / "server.py"))
    program.write_text(f'#!/bin/sh\n{python} {server} "$@"\n')
    program.chmod(0o755)
    return tree, carla
