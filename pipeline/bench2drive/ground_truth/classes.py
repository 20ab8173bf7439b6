"""The nine classes of ORION and the CARLA type ids they stand for (spec: Bench2Drive, section 3.8)."""

from __future__ import annotations

CLASSES = (
    "car",
    "van",
    "truck",
    "bicycle",
    "traffic_sign",
    "traffic_cone",
    "traffic_light",
    "pedestrian",
    "others",
)
"""Names by label."""

UNKNOWN = -1
"""Label of a type id that is in no class, as the 34-vectors of agent futures store it."""

_PARKED = "/Game/Carla/Static/Car/4Wheeled/ParkedVehicles/{0}/{1}.{1}"

_PEDESTRIANS = (
    "0001 0003 0004 0005 0007 0010 0013 0014 0015 0016 0017 0018 0019 0020 "
    "0021 0022 0025 0027 0030 0031 0032 0034 0035 0041 0042 0046 0047"
)

_TYPE_IDS = {
    "car": [
        "vehicle.audi.etron",
        "vehicle.audi.tt",
        "vehicle.chevrolet.impala",
        "vehicle.dodge.charger_2020",
        "vehicle.dodge.charger_police",
        "vehicle.dodge.charger_police_2020",
        "vehicle.lincoln.mkz_2017",
        "vehicle.lincoln.mkz_2020",
        "vehicle.mini.cooper_s_2021",
        "vehicle.mercedes.coupe_2020",
        "vehicle.ford.mustang",
        "vehicle.ford.crown",
        "vehicle.nissan.patrol_2021",
        "vehicle.tesla.model3",
        _PARKED.format("FordCrown", "SM_FordCrown_parked"),
        _PARKED.format("Charger", "SM_ChargerParked"),
        _PARKED.format("Lincoln", "SM_LincolnParked"),
        _PARKED.format("MercedesCCC", "SM_MercedesCCC_Parked"),
        _PARKED.format("Mini2021", "SM_Mini2021_parked"),
        _PARKED.format("NissanPatrol2021", "SM_NissanPatrol2021_parked"),
        _PARKED.format("TeslaM3", "SM_TeslaM3_parked"),
    ],
    "van": ["vehicle.ford.ambulance", _PARKED.format("VolkswagenT2", "SM_VolkswagenT2_2021_Parked")],
    "truck": ["vehicle.carlamotors.firetruck"],
    "bicycle": ["vehicle.bh.crossbike", "vehicle.diamondback.century", "vehicle.gazelle.omafiets"],
    "traffic_sign": [
        *(f"traffic.speed_limit.{limit}" for limit in (30, 40, 50, 60, 90, 120)),
        "traffic.stop",
        "traffic.yield",
    ],
    "traffic_cone": [
        "static.prop.warningconstruction",
        "static.prop.warningaccident",
        "static.prop.trafficwarning",
        "static.prop.constructioncone",
    ],
    "traffic_light": ["traffic.traffic_light"],
    "pedestrian": [f"walker.pedestrian.{number}" for number in _PEDESTRIANS.split()],
    "others": ["static.prop.dirtdebris01", "static.prop.dirtdebris02"],
}

_LABELS = {type_id: CLASSES.index(name) for name, type_ids in _TYPE_IDS.items() for type_id in type_ids}


def label_of(type_id: str) -> int:
    """Return the index into ``CLASSES`` of a CARLA type id, or ``UNKNOWN``."""
    return _LABELS.get(type_id, UNKNOWN)
