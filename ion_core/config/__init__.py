"""The configuration: a YAML file, environment variables and flags become frozen settings, or all that is wrong."""

from ion_core.config.check import (
    check_graph,
    check_holding,
    check_names,
    check_observers,
    check_reach,
    check_runtimes,
    check_settings,
    check_told,
    check_workers,
    fit_runtimes,
    told_limit,
)
from ion_core.config.derive import derived
from ion_core.config.load import Config, find_config, load_config, passed_over, registry_of
from ion_core.config.messages import in_words
from ion_core.config.programs import (
    check_programs,
    check_python,
    environments_directory,
    python_environments,
    runs_processes,
)
from ion_core.config.replace import Instead, Replacements, embedded, unpublished
from ion_core.config.schema import json_schema
from ion_core.config.show import dump
from ion_core.contracts.provider import Finding
from ion_core.hidden import Hidden
from ion_core.opening import Chosen

__all__ = [
    "Chosen",
    "Config",
    "Finding",
    "Hidden",
    "Instead",
    "Replacements",
    "check_graph",
    "check_holding",
    "check_names",
    "check_observers",
    "check_programs",
    "check_python",
    "check_reach",
    "check_runtimes",
    "check_settings",
    "check_told",
    "check_workers",
    "derived",
    "dump",
    "embedded",
    "environments_directory",
    "find_config",
    "fit_runtimes",
    "in_words",
    "json_schema",
    "load_config",
    "passed_over",
    "python_environments",
    "registry_of",
    "runs_processes",
    "told_limit",
    "unpublished",
]
