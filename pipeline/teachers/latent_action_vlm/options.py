"""What of a teacher of latent actions can be chosen: what it is shown, what it is asked, and its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cache_schema.vocabulary.latent_actions import (
    CODES_A_TRANSITION,
    LATENT_ACTION_CODES,
    LATENT_ACTION_TRANSITIONS,
    latent_action_features,
)
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.teachers.latent_action_vlm.images import TOKEN, grid_of

if TYPE_CHECKING:
    from cache_schema.format.features import FeatureSpec


class LatentActionOptions(BaseModel):
    """Options of a teacher of latent actions; every field can be set by ``--set``.

    Raises:
        ValueError: They do not fit each other. (A user sees a ``RequestError``.)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: tuple[str, ...] = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
    """Cameras in the order in which they are shown."""
    image_width: int = Field(default=448, ge=TOKEN, multiple_of=TOKEN)
    """Pixels. 448x252 keeps the sides of 1600x900 exactly."""
    image_height: int = Field(default=252, ge=TOKEN, multiple_of=TOKEN)
    cell_rows: int = Field(default=3, ge=1)
    """Cells of an image over which its states are averaged."""
    cell_columns: int = Field(default=4, ge=1)
    prompt: Literal["ego", "images"] = "ego"
    """Whether the prompt tells the ego's state and command, or shows images alone."""
    prefix: Literal["greedy"] = "greedy"
    """Which codes each next code follows: the model's own likeliest ones."""
    positions: int = Field(default=LATENT_ACTION_TRANSITIONS * CODES_A_TRANSITION, ge=1)
    """Codes of a frame, N."""
    codes: int = Field(default=LATENT_ACTION_CODES, ge=2, le=2**15)
    """Values of a code, K; they are stored as int16."""
    first_code: int = Field(default=151_665, ge=0)
    """Token id of code 0: the first one that Qwen's tokenizer leaves free. The others follow."""
    code_token: str = ""
    """What a tokenizer may call a code, with {} for its number. Empty: it must not know their ids."""

    @field_validator("cameras", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("cameras")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [camera for camera in value if camera not in CAMERAS]:
            raise ValueError(f"there is no {', '.join(map(repr, unknown))} among {', '.join(CAMERAS)}")
        if not value or len({*value}) < len(value):
            raise ValueError("one or more cameras are shown, each once")
        return value

    @model_validator(mode="after")
    def _cells_divide(self) -> Self:
        for tokens, cells, axis in zip(self.grid, self.cells, ("rows", "columns"), strict=True):
            if tokens % cells:
                raise ValueError(f"{tokens} {axis} of an image's tokens cannot be averaged to {cells}")
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of an image, pixels."""
        return self.image_width, self.image_height

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return grid_of(self.image_size)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.cell_rows, self.cell_columns

    @property
    def code_ids(self) -> range:
        """Token ids of the codes."""
        return range(self.first_code, self.first_code + self.codes)

    def features(self, width: int) -> tuple[FeatureSpec, ...]:
        """Return the features of a teacher whose hidden states have a width."""
        cells = dict.fromkeys(self.cameras, self.cell_rows * self.cell_columns)
        return latent_action_features(self.positions, self.codes, width, cells)
