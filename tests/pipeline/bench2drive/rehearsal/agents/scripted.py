"""Does what its configuration says, a JSON object, and notes what is done to it in CALLS."""

import json

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track

CALLS = []
DATA = []
SPEEDOMETER = [{"type": "sensor.speedometer", "id": "SPEED"}]


def get_entry_point():
    return "Scripted"


class Scripted(AutonomousAgent):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        CALLS.append("__init__")

    def set_global_plan(self, gps, world):
        super().set_global_plan(gps, world)
        CALLS.append("set_global_plan")

    def setup(self, path_to_conf_file):
        CALLS.append("setup")
        self.names = path_to_conf_file.split("+")
        self.script = json.loads(self.names[0])
        self.track = Track[self.script.get("track", "SENSORS")]
        self.fail("setup")

    def fail(self, place):
        if self.script.get("fails") == place:
            raise RuntimeError("as asked for")

    def sensors(self):
        CALLS.append("sensors")
        return self.script.get("sensors", SPEEDOMETER)

    def run_step(self, input_data, timestamp):
        CALLS.append(f"run_step {timestamp:.2f}")
        DATA.append(input_data)
        self.fail(f"run_step {timestamp:.2f}")
        if self.script.get("answers"):
            self.last_answer = {"plan": [[timestamp, step] for step in range(6)]}
        throttle, steer, brake = self.script["control"]
        if timestamp >= self.script.get("until_s", float("inf")):
            throttle = 0.0
        return carla.VehicleControl(throttle=throttle, steer=steer, brake=brake)

    def destroy(self):
        CALLS.append("destroy")
        self.fail("destroy")
