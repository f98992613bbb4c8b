"""A gene of a protein: back-translated for an organism, within bounds, and read back.

DNA Chisel looks for the sequence; what it found is judged again here, by other code.

References:
    DNA Chisel, a versatile sequence optimizer (Zulkower and Rosser, 2020),
    https://doi.org/10.1093/bioinformatics/btaa558.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast
from zlib import crc32

import numpy as np
from Bio import BiopythonWarning
from Bio.Data.IUPACData import ambiguous_dna_values
from Bio.Seq import Seq
from Bio.SeqFeature import SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from seqalign.core.sequence import DNA, PROTEIN

__all__ = ["Gene", "Order", "genbank", "gene", "organisms"]

INSTALL = 'DNA needs DNA Chisel, which is not installed. Run: pip install "seqalign[dna]"'
TRIES = 4


@dataclass(frozen=True)
class Order:
    """What every gene of an order is like.

    Attributes:
        organism: whose codons are taken, the most frequent first; one of `organisms()`.
        gc: bounds on the share of G and C in the whole fragment.
        window: letters, and bounds on the share of G and C in every stretch of so many.
        avoid: enzymes, or sites in IUPAC letters, that do not cut, on neither strand. What lies
            wholly in `prefix` or `suffix` is meant.
        run: the longest run of one base.
        repeat: no stretch of so many bases of the gene comes twice, on either strand; 0 for any.
        start_met: whether a protein that begins with another letter gets an M before.
        n_tag: letters before the protein; "-" tells parts apart: "MHHHHHH-GSGS".
        c_tag: letters behind it.
        stop: whether a stop codon ends the gene.
        prefix: DNA before the gene, taken as it is.
        suffix: DNA behind it.
        max_length: of the fragment in base pairs; None for any.
        seed: of the search.

    Raises:
        ValueError: a value is none, or names an enzyme or organism nobody knows.
    """

    organism: str = "e_coli"
    gc: tuple[float, float] = (0.30, 0.65)
    window: tuple[int, float, float] = (50, 0.20, 0.80)
    avoid: tuple[str, ...] = ("BsaI",)
    run: int = 8
    repeat: int = 20
    start_met: bool = True
    n_tag: str = ""
    c_tag: str = ""
    stop: bool = True
    prefix: str = ""
    suffix: str = ""
    max_length: int | None = None
    seed: int = 0
    sites: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, text in (("--n-tag", self.n_tag), ("--c-tag", self.c_tag)):
            bare = text.replace("-", "")
            _refuse_letters(name, bare, PROTEIN.letters, "amino acids")
            if len(bare) > 5 and len(set(bare)) > 2 and set(bare) <= set(DNA.letters):
                raise ValueError(
                    f"{name} {text!r} looks like DNA; a tag is amino acids, such as MHHHHHH. Give "
                    "bases to --prefix or --suffix."
                )
        for name, text in (("--prefix", self.prefix), ("--suffix", self.suffix)):
            _refuse_letters(name, text, DNA.letters, "bases")
        for name, low, high in (("--gc", *self.gc), ("--gc-window", *self.window[1:])):
            if not 0 <= low < high <= 1:
                raise ValueError(
                    f"{name} {low:g} {high:g}: give the lowest and the highest share of G and C, "
                    "as 0.3 0.65."
                )
        if self.window[0] < 1 or self.run < 1:
            raise ValueError("--gc-window and --max-run count bases: give 1 or more.")
        if 0 < self.repeat < 9:
            raise ValueError(
                f"--repeat {self.repeat}: every gene has repeats of so few bases. Give 9 or more, "
                "or 0 for no bound."
            )
        known = organisms()
        if self.organism not in known:
            raise ValueError(
                f"--organism {self.organism!r}: there is no codon table of it. Known are "
                f"{', '.join(sorted(known))}."
            )
        object.__setattr__(self, "sites", {name: _site(name) for name in self.avoid})

    @property
    def limits(self) -> str:
        """The bounds in words."""
        sites = f", without {', '.join(self.avoid)}" if self.avoid else ""
        repeat = f", no {self.repeat} bp twice" if self.repeat else ""
        return (
            f"GC {self.gc[0]:.0%}-{self.gc[1]:.0%}, in {self.window[0]} bp "
            f"{self.window[1]:.0%}-{self.window[2]:.0%}, runs to {self.run}{repeat}{sites}"
        )

    def flanked(self) -> list[str]:
        """Return which sites lie inside the given ends, in words: those are kept as they are."""
        return [
            f"{name} cuts inside {option}, which is kept as it is"
            for name, site in self.sites.items()
            for option, text in (("--prefix", self.prefix), ("--suffix", self.suffix))
            if re.search(_either_strand(site), text)
        ]


def _refuse_letters(option: str, text: str, allowed: str, what: str) -> None:
    odd = sorted(set(text) - set(allowed))
    if odd:
        raise ValueError(f"{option} {text!r}: {odd[0]!r} is none of the {what} {allowed}.")


def _site(name: str) -> str:
    """Return the recognition site of an enzyme, or of a site itself."""
    # a thousand classes: only who orders DNA waits for them
    from Bio.Restriction.Restriction_Dictionary import rest_dict

    by_name = {known.lower(): known for known in rest_dict}
    if name.lower() in by_name:
        return str(rest_dict[by_name[name.lower()]]["site"])
    if len(name) > 3 and set(name.upper()) <= set(ambiguous_dna_values):
        return name.upper()
    near = [by_name[n] for n in get_close_matches(name.lower(), by_name, 3)]
    meant = f"Did you mean {', '.join(near)}?" if near else "Write one such as BsaI, or GGTCTC."
    raise ValueError(f"--avoid {name!r}: no enzyme and no site of bases has this name. {meant}")


def organisms() -> Mapping[str, str]:
    """Return the codon tables there are, by the name of the organism.

    Raises:
        ImportError: DNA Chisel is not installed.
    """
    tables = _chisel()[1]
    return {re.sub(r"_\d+$", "", name): name for name in tables.available_codon_tables_names}


def _chisel() -> tuple[Any, Any]:
    try:
        import dnachisel
        import python_codon_tables
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return dnachisel, python_codon_tables


@dataclass(frozen=True)
class Gene:
    """The DNA of a protein.

    Attributes:
        name: its id.
        dna: the fragment as it is ordered.
        protein: what its coding sequence says, tags included, without the stop.
        features: 0-based start and end in the fragment, what it is, and its name, of each part.
        met: whether an M was put before.
    """

    name: str
    dna: str
    protein: str
    features: tuple[tuple[int, int, str, str], ...]
    met: bool

    @property
    def gc(self) -> float:
        """The share of G and C in the fragment."""
        return _gc(self.dna)

    @property
    def coding(self) -> tuple[int, int]:
        """Start and end of the coding sequence in the fragment, its stop included."""
        return next((start, end) for start, end, kind, _ in self.features if kind == "CDS")


def gene(name: str, protein: str, order: Order) -> Gene:
    """Return the gene of a protein; the same name, protein and order give the same DNA.

    Raises:
        ImportError: DNA Chisel is not installed.
        ValueError: no DNA was found within the bounds, the fragment is too long, or the protein
            has a letter that has no codon; the message begins with the name.
    """
    _refuse_letters(name, protein, PROTEIN.letters, "amino acids")
    parts = [(part, _kind(part)) for part in order.n_tag.split("-") if part]
    parts += [(protein, "protein")]
    parts += [(part, _kind(part)) for part in order.c_tag.split("-") if part]
    met = order.start_met and not parts[0][0].startswith("M")
    parts = [("M", "start")] * met + parts
    whole = "".join(letters for letters, _ in parts)
    text = whole + "*" * order.stop
    size = 3 * len(text) + len(order.prefix) + len(order.suffix)
    if order.max_length is not None and size > order.max_length:
        raise ValueError(
            f"{name}: the fragment has {size} bp, longer than --max-length {order.max_length}. "
            "Allow more, or leave out tags and adapters."
        )
    dna = _found(name, text, order)
    return Gene(name, dna, whole, tuple(_features(name, parts, order, len(dna))), met)


def _kind(part: str) -> str:
    return "linker" if set(part) <= set("GS") else "tag"


def _features(
    name: str, parts: Sequence[tuple[str, str]], order: Order, size: int
) -> Iterator[tuple[int, int, str, str]]:
    """Yield the parts of a fragment."""
    start = at = len(order.prefix)
    end = size - len(order.suffix)
    if order.prefix:
        yield 0, start, "prefix", "prefix"
    yield start, end, "CDS", name
    for letters, kind in parts:
        label = name if kind == "protein" else f"{kind} {letters}"
        yield at, at + 3 * len(letters), kind, label
        at += 3 * len(letters)
    if order.suffix:
        yield end, size, "suffix", "suffix"


def _found(name: str, text: str, order: Order) -> str:
    """Return a fragment whose coding sequence says `text`, within the bounds of an order."""
    chisel, tables = _chisel()
    table = tables.get_codons_table(organisms()[order.organism])
    best = {letter: max(sorted(codons), key=codons.get) for letter, codons in table.items()}
    first = order.prefix + "".join(best[a] for a in text) + order.suffix
    begin, end = len(order.prefix), len(first) - len(order.suffix)
    _refuse_out_of_reach(name, text, order, table)

    def around(size: int) -> tuple[int, int]:
        # every stretch of this size that touches the gene
        return max(0, begin - size + 1), min(len(first), end + size - 1)

    patterns = [chisel.DnaNotationPattern(site, name=n) for n, site in order.sites.items()]
    patterns += [chisel.HomopolymerPattern(base, order.run + 1) for base in DNA.letters]
    constraints = [
        *([chisel.AvoidChanges(location=(0, begin))] if begin else []),
        *([chisel.AvoidChanges(location=(end, len(first)))] if order.suffix else []),
        chisel.EnforceTranslation(translation=text, location=(begin, end, 1)),
        *(chisel.AvoidPattern(p, location=around(p.size), strand="both") for p in patterns),
        chisel.EnforceGCContent(mini=order.gc[0], maxi=order.gc[1]),
    ]
    size, low, high = order.window
    if size <= len(first):
        constraints.append(chisel.EnforceGCContent(mini=low, maxi=high, window=size))
    if 0 < order.repeat < end - begin:
        here = (begin, end)
        constraints.append(chisel.UniquifyAllKmers(order.repeat, reference=here, location=here))
    usage = chisel.CodonOptimize(
        codon_usage_table=table, method="use_best_codon", location=(begin, end, 1)
    )
    # the library draws from the global stream: it is put back, and a gene depends on no other
    state = np.random.get_state()  # noqa: NPY002
    try:
        for n in range(TRIES):
            np.random.seed(crc32(f"{order.seed} {n} {text}".encode()))  # noqa: NPY002
            problem = chisel.DnaOptimizationProblem(
                first, constraints=constraints, objectives=[usage], logger=None
            )
            try:
                problem.resolve_constraints()
            except chisel.NoSolutionError:
                continue
            problem.optimize()
            return _read_back(str(problem.sequence), text, order)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    raise ValueError(f"{name}: {_impossible(problem, order)}")


def _refuse_out_of_reach(
    name: str, text: str, order: Order, table: Mapping[str, Mapping[str, float]]
) -> None:
    """Refuse bounds on the share of G and C that no choice of codons can meet."""
    flanks = order.prefix + order.suffix
    size = 3 * len(text) + len(flanks)
    low, high = (
        sum(few(3 * _gc(codon) for codon in table[a]) for a in text) / size
        + (_gc(flanks) * len(flanks) / size if flanks else 0.0)
        for few in (min, max)
    )
    if high < order.gc[0] or low > order.gc[1]:
        raise ValueError(
            f"{name}: no DNA keeps all bounds: every choice of codons has GC {low:.1%} to "
            f"{high:.1%}, and --gc says {order.gc[0]:.1%} to {order.gc[1]:.1%}."
        )


def _impossible(problem: Any, order: Order) -> str:
    """Return which bound was not met, in words."""
    broken = broken_bounds(str(problem.sequence), order)
    return (
        f"no DNA was found that keeps all bounds ({order.limits}). "
        f"Not kept: {'; '.join(broken) or 'they contradict each other'}. Loosen --gc, --gc-window, "
        "--avoid, --max-run or --repeat, or leave the design out."
    )


def _read_back(dna: str, text: str, order: Order) -> str:
    """Return a fragment that says what it shall, or raise."""
    begin, end = len(order.prefix), len(dna) - len(order.suffix)
    read = str(Seq(dna[begin:end]).translate(table="Standard"))  # type: ignore[no-untyped-call]
    flanks = (dna[:begin], dna[end:])
    broken = broken_bounds(dna, order)
    if read != text or flanks != (order.prefix, order.suffix) or broken:
        said = "; ".join(broken) or f"it reads {read}"
        raise AssertionError(f"the gene of {text} is wrong ({said}): {dna}")
    return dna


def broken_bounds(dna: str, order: Order) -> list[str]:
    """Return which bounds of an order a fragment does not keep, in words with their places."""
    found = []
    begin, end = len(order.prefix), len(dna) - len(order.suffix)
    if not order.gc[0] <= _gc(dna) <= order.gc[1]:
        found.append(f"GC is {_gc(dna):.1%}")
    size, low, high = order.window
    for i in range(len(dna) - size + 1):
        if not low <= _gc(dna[i : i + size]) <= high:
            found.append(f"GC is {_gc(dna[i : i + size]):.1%} in {size} bp from {i + 1}")
            break
    runs = "|".join(base * (order.run + 1) for base in DNA.letters)
    patterns = {f"a run of {order.run + 1}": runs}
    patterns |= {name: _either_strand(site) for name, site in order.sites.items()}
    for name, pattern in patterns.items():
        for match in re.finditer(f"(?=(?P<all>{pattern}))", dna):
            # what lies in a flank was given
            if match.end("all") > begin and match.start() < end:
                at = f"{name} at {match.start() + 1}"
                at += ", across the end of the prefix" * (match.start() < begin)
                found.append(at + ", across the start of the suffix" * (match.end("all") > end))
                break
    return found + _repeats(dna[begin:end], order.repeat, begin)


def _repeats(dna: str, size: int, begin: int) -> list[str]:
    """Return the first stretch that comes twice, in words."""
    seen: dict[str, int] = {}
    for i in range(len(dna) - size + 1 if size else 0):
        here = dna[i : i + size]
        other = str(Seq(here).reverse_complement())  # type: ignore[no-untyped-call]
        j = seen.get(here, seen.get(other))
        if j is not None:
            return [f"{size} bp at {begin + j + 1} again at {begin + i + 1}"]
        seen[here] = i
    return []


def _either_strand(site: str) -> str:
    """Return a pattern of a site on either strand."""
    other = str(Seq(site).reverse_complement())  # type: ignore[no-untyped-call]
    return "|".join("".join(f"[{ambiguous_dna_values[a]}]" for a in s) for s in {site, other})


def _gc(dna: str) -> float:
    return (dna.count("G") + dna.count("C")) / len(dna)


def genbank(genes: Sequence[Gene], about: str) -> str:
    """Return GenBank text of genes with their coding sequences, tags, linkers and flanks."""
    from Bio import SeqIO

    # Biopython has no types for these
    seq, place, feature, entry = (
        cast(Any, x) for x in (Seq, SimpleLocation, SeqFeature, SeqRecord)
    )
    records = []
    for one in genes:
        features = []
        for start, end, kind, label in one.features:
            notes = {"label": [label]}
            if kind == "CDS":
                notes |= {"codon_start": ["1"], "transl_table": ["1"]}
                notes |= {"translation": [one.protein]}
            kind = "CDS" if kind == "CDS" else "misc_feature"
            features.append(feature(place(start, end, strand=1), type=kind, qualifiers=notes))
        said = {"molecule_type": "DNA", "topology": "linear"}
        records.append(
            entry(seq(one.dna), one.name, one.name, about, features=features, annotations=said)
        )
    text = io.StringIO()
    with warnings.catch_warnings():
        # a long name widens the first line, which every reader takes
        warnings.simplefilter("ignore", BiopythonWarning)
        SeqIO.write(records, text, "genbank")
    return text.getvalue()
