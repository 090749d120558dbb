"""The JSON schema of config.yaml, for editors."""

from __future__ import annotations

from typing import Any

from maskmill.recipe import registry
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.sections import Config, Refine
from maskmill.recipe.stages import STAGES


def _either(known: dict[str, Any] | None, field: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a key that several methods have: what any of them allows."""
    if known is None or known == field:
        return field
    options = known["anyOf"] if set(known) == {"anyOf"} else [known]
    return {"anyOf": [*options, field] if field not in options else options}


def schema() -> dict[str, Any]:
    """The JSON schema of config.yaml, with the parameters of every method of every stage."""
    body = Config.model_json_schema()
    for spec in STAGES:
        if not spec.in_recipes:
            continue
        stage, properties = spec.name, spec.model.model_json_schema()["properties"]
        if "refine" in properties:
            properties["refine"] = Refine.schema_of()
        if spec.method_key:
            properties[spec.method_key] = {"enum": list(registry.available(stage)), "description": "the method"}
            for method in registry.available(stage):
                own = registry.load(stage, method).Params.model_json_schema().get("properties", {})
                for name, field in own.items():
                    properties[name] = _either(properties.get(name), field)
        body["properties"][stage] = {"type": "object", "additionalProperties": False, "properties": properties}
    keep = FeatureSet.model_json_schema()["properties"]["keep"]
    body["properties"]["features"]["properties"] = {"keep": keep | {"description": "of all feature sets"}}
    body["properties"]["features"]["additionalProperties"] = FeatureSet.model_json_schema()["properties"] and {
        "type": "object",
        "additionalProperties": False,
        "properties": FeatureSet.model_json_schema(ref_template="#/$defs/{model}")["properties"],
    }
    body.setdefault("$defs", {})["Size"] = Size.model_json_schema()
    body["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return body
