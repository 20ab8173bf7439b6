"""Follows the plan that the toy's own driver would follow, with the controller of ORION's agent.

Configured as "reckless", it steers by the plan only, at full throttle.
"""

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent

from student.closed_loop.controller import AgentController


def get_entry_point():
    return "TruePlan"


class TruePlan(AutonomousAgent):
    def setup(self, path_to_conf_file):
        self.controller = AgentController()
        self.reckless = path_to_conf_file.startswith("reckless+")

    def sensors(self):
        return [{"type": "sensor.speedometer", "id": "SPEED"}]

    def run_step(self, input_data, timestamp):
        _, speed = input_data["SPEED"]
        plan = self.hero_actor.true_plan()
        control = self.controller.step(plan, speed["speed"])
        self.last_answer = {"plan": plan.tolist()}
        if self.reckless:
            return carla.VehicleControl(throttle=1.0, steer=control.steer)
        return carla.VehicleControl(throttle=control.throttle, steer=control.steer, brake=control.brake)
