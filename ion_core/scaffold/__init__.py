"""Writing new projects, modules and plugins that run, are tested and pass ``ion-core check`` as they are."""

from ion_core.scaffold.configuration import entry_text, with_module
from ion_core.scaffold.editing import names_formerly, places_that_say, with_renamed_module, without_module
from ion_core.scaffold.plugins import PLUGIN_NAME, SKELETONS, plugin_files
from ion_core.scaffold.templates import LANGUAGES, ModuleNames, module_entry, module_files, project_files
from ion_core.scaffold.writing import NewFile, replace_text, write_new

__all__ = [
    "LANGUAGES",
    "PLUGIN_NAME",
    "SKELETONS",
    "ModuleNames",
    "NewFile",
    "entry_text",
    "module_entry",
    "module_files",
    "names_formerly",
    "places_that_say",
    "plugin_files",
    "project_files",
    "replace_text",
    "with_module",
    "with_renamed_module",
    "without_module",
    "write_new",
]
