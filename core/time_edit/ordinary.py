"""How a text encoder's states spread over ordinary prompts: the unit of a relative lambda."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from .. import storage
from ..errors import UserError
from ..model.protocols import PromptStates

HUNDRED = 100
KIND, VERSION = "ordinary states", 1
AT_ONCE = 32  # prompts whose states are in memory together
SHRINKAGE = 0.1  # of the covariance towards a multiple of I (Ledoit and Wolf 2004): some hundred prompts fill no space

# What people ask pictures of, in the forms in which they ask: single words, things with attributes, scenes, people,
# styles. None of them is there for what an evaluation asks.
PROMPTS = """\
cat
dog
a house
a red car
a bowl of soup
mountains
portrait
an old bridge over a river
two children playing in a park
a woman reading a newspaper
a man with a hat
a city at night
a plate of pasta with tomatoes
a photo of a forest in autumn
a painting of a sailing ship
the ocean at sunset
a bicycle leaning against a wall
a small wooden table
a cup of coffee next to a laptop
a garden full of flowers
a black and white photograph of a street
a teacher in front of a class
a musician playing the violin
a soldier
an astronaut on the moon
a horse running through a field
a flock of birds above a lake
a kitchen with white furniture
an empty room with large windows
a train arriving at a station
an oil painting of a king
a sketch of a hand
a cartoon of a smiling sun
a glass of water
a loaf of bread on a table
a basket with fruit
a green apple
yellow leaves on the ground
a snowy village
a desert with camels
a lighthouse in a storm
a crowd at a concert
a girl in a blue dress
a boy with a kite
an elderly couple on a bench
a doctor talking to a patient
a chef preparing fish
a farmer on a tractor
a computer on a desk
a stack of books
a clock on a tower
a leather armchair
a pair of shoes
a silver ring
a birthday cake with candles
pizza
sushi on a black plate
an elephant bathing
a lion in the savanna
a butterfly on a leaf
a spider web with dew
a fish tank
a whale jumping out of the water
a castle on a hill
a modern skyscraper
a church
a market with vegetables
a football match
a runner at the finish
a swimmer
a ballet dancer on a stage
a knight fighting a dragon
a robot
a futuristic city with flying cars
a spaceship landing on another planet
an abstract composition of circles
a watercolor of a valley
a poster for a film
a logo with a fox
a map of an island
a close-up of an eye
a wide landscape with clouds
rain on a window
lightning
a rainbow over a waterfall
a volcano
ice and snow
a campfire under the stars
a tent by a lake
a road through the hills
a parked motorcycle
an airplane in the sky
a fishing boat
a harbour in the morning
a bus stop
a narrow alley with lamps
a wedding
a family having dinner
a baby sleeping
a tired worker
a friendly neighbour
a politician giving a speech
a scientist in a laboratory
a fashion model on a runway
a guitar on a sofa
a piano
a chessboard
a broken mirror
an umbrella
a vase with tulips
a cactus in a pot
a wooden toy
a balloon
high detail, sharp focus, soft light
a photo of food
an image of a machine
a picture of nature
the inside of a cathedral
a statue of a woman
graffiti on a brick wall""".splitlines()


def ordinary_covariance(encoder: PromptStates, cache: Path | None = None) -> Tensor:
    """Sigma (width, width), float64: the sum of c c^T over all slots of a HUNDRED ordinary prompts.

    So tr((W' - W) Sigma (W' - W)^T) is how far an edit moves what a layer reads from a hundred of them, and with the
    default lambda of 0.1 ten of them weigh against the edited prompts. It is not centred, since what all prompts share
    shall stay too, and shrunk towards a multiple of I by SHRINKAGE. Kept in the folder `cache`, by the states of its
    first prompt: those of another encoder, or of the same one with a LoRA, are others.
    """
    (first,) = encoder.encode(PROMPTS[:1])
    made_of = {"prompts": PROMPTS, "states": hashlib.sha256(first.contiguous().numpy().data).hexdigest()}
    file = cache / f"ordinary_{made_of['states'][:24]}.safetensors" if cache else None
    covariance = _cached(file, made_of, encoder.width)
    if covariance is None:
        covariance = torch.zeros(encoder.width, encoder.width, dtype=torch.float64)
        for start in range(0, len(PROMPTS), AT_ONCE):
            states = torch.cat(list(encoder.encode(PROMPTS[start : start + AT_ONCE]))).double()
            covariance += states.T @ states
        covariance *= HUNDRED / len(PROMPTS)
        if file:
            storage.keep(file, {"covariance": covariance}, {"kind": KIND, "version": VERSION, **made_of})
    mean = covariance.diagonal().mean()
    covariance *= 1 - SHRINKAGE  # in place: wide encoders have gigabytes of it
    covariance.diagonal().add_(SHRINKAGE * mean)
    return covariance


def _cached(file: Path | None, made_of: dict[str, object], width: int) -> Tensor | None:
    """The covariance kept in `file`, unless it is missing, damaged or made of something else."""
    if file is None:
        return None
    try:
        tensors, header = storage.read(file, KIND, VERSION, ("covariance",))
        storage.check_numbers(file, {"covariance": 2}, tensors)
    except UserError:
        return None  # it is only a cache: made anew
    same = all(header.get(key) == value for key, value in made_of.items())
    return tensors["covariance"] if same and tensors["covariance"].shape == (width, width) else None
