"""The procedures by which mixtures are made, by the name that `mixing.procedure` takes."""

from types import ModuleType

from spikesep.separation.data.mixing import balanced, librimix, wsj0mix

PROCEDURES: dict[str, ModuleType] = {"balanced": balanced, "wsj0mix": wsj0mix, "librimix": librimix}
