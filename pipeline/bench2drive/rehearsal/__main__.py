"""A process of the evaluator, without CARLA: ``python -m pipeline.bench2drive.rehearsal --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from cache_schema.errors import TeachonceError
from pipeline.bench2drive.rehearsal.leaderboard import evaluate
from pipeline.bench2drive.rehearsal.replay import ReplayWorld, replays
from pipeline.bench2drive.rehearsal.results import SIMULATION_CRASHED, Checkpoint
from pipeline.bench2drive.rehearsal.routes import choose, read_route_numbers, write_routes
from pipeline.bench2drive.rehearsal.toy import ToyWorld
from pipeline.bench2drive.rehearsal.toys import toys


def main(arguments: list[str] | None = None) -> int:
    """Drive an agent, and return the exit status: 255, like the evaluator's, where the simulation crashed."""
    options = _parser().parse_args(arguments)
    try:
        return _rehearse(options)
    except TeachonceError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m pipeline.bench2drive.rehearsal",
        description="A process of the leaderboard's evaluator, without CARLA.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--clips", type=Path, help="replay the clips of this data root")
    where.add_argument("--scenes", type=int, help="drive in so many synthetic scenes, a toy")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--black", action="store_true", help="paint no images: all cameras see black")
    parser.add_argument("--routes", type=Path, help="drive only the routes of this XML file")
    parser.add_argument("--agent", type=Path, help="the agent's file")
    parser.add_argument("--agent-config", default="", help="the agent's configuration")
    parser.add_argument("--checkpoint", type=Path, help="write results here, as the evaluator does")
    parser.add_argument("--drives", type=Path, help="write what was driven to ROUTE.npz here")
    parser.add_argument("--write-routes", type=Path, help="write the routes as XML, and drive none")
    return parser


def _rehearse(options: argparse.Namespace) -> int:
    if options.clips is not None:
        kind, worlds = ReplayWorld.kind, replays(options.clips)
    else:
        kind = ToyWorld.kind
        worlds = toys(
            options.scenes, seed=options.seed, cameras=not options.black and options.write_routes is None
        )
    if options.routes is not None:
        worlds = choose(worlds, read_route_numbers(options.routes))
    if options.write_routes is not None:
        write_routes(options.write_routes, (world().route for world in worlds.values()))
        return 0
    if options.agent is None or options.checkpoint is None:
        _parser().error("--agent and --checkpoint are needed to drive")
    failure = ""
    opened = (world() for world in worlds.values())
    checkpoint = Checkpoint(options.checkpoint, len(worlds), kind)
    drives = evaluate(options.agent, options.agent_config, opened, checkpoint)
    for drive in drives:
        failure = drive.failure
        if options.drives is not None:
            options.drives.mkdir(parents=True, exist_ok=True)
            np.savez(
                options.drives / f"{drive.route.id}.npz",
                poses=drive.poses,
                controls=drive.controls,
                plans=drive.plans,
                route=drive.route.positions[:, :2],
                road=drive.road,
                others=drive.others,
            )
    return 255 if failure == SIMULATION_CRASHED else 0


if __name__ == "__main__":
    sys.exit(main())
