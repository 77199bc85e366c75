"""How the weights of other people's code are taken: under their names here, all of them and no others."""


def parametrized(name):
    """`name` of a weight under torch's older weight norm, as the present one has it."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(old, f"parametrizations.weight.{new}")
    return name


def take(codec, weights, own):
    """Load `weights`, name in this project -> tensor, into `codec` (models.base.Codec).

    What is called as `own` says (ends of names: the bookkeeping of training) stays as it is where they lack it. Raises
    ValueError naming the first weight that is missing, too much or of another shape; then nothing is loaded.
    """
    wanted, kind = codec.state_dict(), type(codec).__name__
    weights = {name: value for name, value in wanted.items() if name.split(".")[-1] in own} | weights
    for name in (*wanted, *weights):
        if (name in wanted) != (name in weights):
            raise ValueError(f"not this {kind}: {name} is {'missing' if name in wanted else 'too much'}")
        if weights[name].shape != wanted[name].shape:
            there, here = list(weights[name].shape), list(wanted[name].shape)
            raise ValueError(f"not this {kind}: {name} is {there}, {here} here")
    codec.load_state_dict(weights)
