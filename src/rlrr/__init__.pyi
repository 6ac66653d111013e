from .adapters.combine import combine as combine
from .compare.run import ablate as ablate
from .compare.run import reproduce as reproduce
from .errors import RLRRError as RLRRError
from .inference.evaluate import evaluate as evaluate
from .inference.predict import load as load
from .interop.merge import merge as merge
from .interop.onnx import export as export
from .recipes.recipe import Recipe as Recipe
from .spectral.analyze import analyze as analyze
from .training.run import train as train
from .tuners import RLRRConfig as RLRRConfig
from .tuners import RLRRModel as RLRRModel

__version__: str
