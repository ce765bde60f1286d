import pluggy

from ion_core import hookspecs
from ion_oci import plugin


def test_every_hook_of_the_plugin_is_one_that_ion_calls() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)

    manager.check_pending()
    assert {caller.name for caller in manager.get_hookcallers(plugin) or ()} == {"ion_container_runtimes"}
