"""The page's plain words for a filter, as its URL holds them, and the filter they mean."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema

from service.api.requests import Finding

LABELS = {"present": [1], "possible": [1, -1], "absent": [0]}
"""What a finding chosen on the page must be in a hit: its labels, any of which will do."""


def _none_if_empty(value: Any) -> Any:
    """A form sends an empty text where nothing was chosen."""
    return None if value == "" else value


Choice = Annotated[str | None, BeforeValidator(_none_if_empty)]
_YEARS = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "maxLength": 0}, {"type": "null"}]}
Years = Annotated[FiniteFloat | None, BeforeValidator(_none_if_empty), WithJsonSchema(_YEARS)]


class PageFilters(BaseModel):
    """Which studies may be hits; an empty field excludes nothing."""

    model_config = ConfigDict(extra="forbid")

    finding: list[Finding] = Field(default_factory=list, max_length=32, description="findings that every hit must have")
    label: Literal["present", "possible", "absent"] = Field(
        "present", description="label that a hit must have in each of these findings"
    )
    sex: Choice = None
    projection: Choice = None
    age_from: Years = Field(None, ge=0, description="years, inclusive")
    age_to: Years = Field(None, ge=0, description="years, inclusive")

    def narrowed(self, where: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the filter that these words and `where` mean together; None where both are open."""
        conditions = [{"key": name, "match": {"any": LABELS[self.label]}} for name in self.finding]
        for column, value in (("sex", self.sex), ("projection", self.projection)):
            if value is not None:
                conditions.append({"key": column, "match": {"value": value}})
        bounds = {"gte": self.age_from, "lte": self.age_to}
        given = {sign: years for sign, years in bounds.items() if years is not None}
        if given:
            conditions.append({"key": "age", "range": given})
        if where:
            conditions.append(where)
        return {"must": conditions} if conditions else None

    def words(self) -> dict[str, Any]:
        """Return the fields that are filled in, as parameters of a URL."""
        words = self.model_dump(include=set(PageFilters.model_fields), exclude_defaults=True)
        return {name: value for name, value in words.items() if name != "label" or self.finding}
