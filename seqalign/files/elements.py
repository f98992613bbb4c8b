"""Chemical elements: which one an atom of a file is, by its symbol or else by its name."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HYDROGEN", "MOLYBDENUM", "element_of", "symbol_of"]

_SYMBOLS: Final = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og "
).split()
HYDROGEN: Final = 1
MOLYBDENUM: Final = 42
_NUMBERS: Final = {symbol.upper(): z for z, symbol in enumerate(_SYMBOLS, 1)} | {"D": HYDROGEN}


def symbol_of(element: int) -> str:
    """Return the symbol of an atomic number; "?" for 0."""
    return _SYMBOLS[element - 1] if element else "?"


def element_of(symbol: str, name: str, residue: str = "") -> int:
    """Return the atomic number of an atom, 0 where nothing tells.

    Args:
        symbol: what the file says; blank or no symbol where it says nothing.
        name: of the atom. Four columns of a PDB file say by their blanks whether its element has
            one letter (" CA ", carbon) or two ("CA  ", calcium).
        residue: the name of its residue, which an ion shares.
    """
    known = _NUMBERS.get(symbol.strip().upper())
    if known is not None:
        return known
    bare = name.strip().upper()
    letters = re.sub("^[0-9]+", "", bare)
    aligned = len(name) == 4 and len(bare) < 4
    if aligned and name[0] == " ":
        two = ""
    elif aligned or bare == residue.upper():
        two = letters[:2]
    else:
        # nothing but the letters: the elements of two that organic molecules have
        two = letters[:2] if letters[:2] in ("CL", "BR", "SE") else ""
    return _NUMBERS.get(two) or _NUMBERS.get(letters[:1], 0)
