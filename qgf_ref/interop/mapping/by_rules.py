"""Rule files: which tensors of a foreign file become which parameters, said by the user.

A JSON object:

    {"rules": [
       {"from": "actor.net.{i*3}.weight",   "to": "policy.layers.{i}.kernel", "transpose": true},
       {"from": "actor.net.{i*3}.bias",     "to": "policy.layers.{i}.bias"},
       {"from": "actor.net.{i*3+1}.weight", "to": "policy.layers.{i}.scale"},
       {"from": "q{e+1}.fc.{i}.weight",     "to": "critic.layers.{i}.kernel",
        "member": "{e}", "transpose": true}, …],
     "ignore": ["optimizer.*", "step"]}

from       the file's name; {i} stands for a whole number, {i*3+1} for one that is 3·i + 1
to         NETWORK.layers.NUMBER.PART: policy, critic, target_critic, value; kernel (in, out), bias,
           scale, offset (LayerNorm's)
member     index in the ensemble, when members are tensors of their own: a number or {e}
transpose  true where the file has (out, in), as torch.nn.Linear
ignore     names that are passed over; * stands for anything

Every tensor must be matched by just one rule or be ignored, and every rule must match something.
Without rules, the names are mapped automatically (`mapping/by_names.py`), refined by any of

    {"ignore": ["action_low", "model.*"], "take": ["ema_model.*"],
     "rename": {"0": "policy", "1": "critic.0", "2": "critic.1"}, "gaps": "as ours"}

take       only names that one of these matches are read
rename     what names begin with, up to a dot or slash: what to read for it
gaps       "as ours": where the numbering leaves room for modules without parameters, they do
           nothing when the networks act, as Dropout and Identity (`mapping/gaps.py`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError, listing, reason
from qgf_ref.files import user_path
from qgf_ref.interop.mapping.mapping import Entry, NameMapping, mapping_error
from qgf_ref.interop.native import NETWORKS
from qgf_ref.interop.parameter_file import json_object

_PLACEHOLDER = re.compile(r"\{([a-z])(?:\*([1-9]\d{0,2}))?(?:\+(\d{1,3}))?\}")
_TARGET = re.compile(
    rf"({'|'.join(NETWORKS)})\.layers\.(\d{{1,3}})\.(kernel|bias|scale|offset)", re.ASCII
)
_KEYS = {"from", "to", "member", "transpose"}
_MOST_RULES = 1000
_LONGEST = 300
_MOST_PLACES = 4


@dataclass(frozen=True)
class _Rule:
    text: str
    pattern: re.Pattern[str]
    numbers: tuple[tuple[str, int, int], ...]
    to: str
    member: str | None
    transpose: bool

    def entry(self, name: str) -> Entry | None:
        """The entry for a tensor, if the rule matches its name."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        values: dict[str, int] = {}
        for (letter, factor, shift), digits in zip(self.numbers, found.groups(), strict=True):
            value, rest = divmod(int(digits) - shift, factor)
            if rest or value < 0 or values.setdefault(letter, value) != value:
                return None
        filled = _PLACEHOLDER.sub(lambda m: str(values[m[1]]), self.to)
        target = _TARGET.fullmatch(filled)
        if target is None:
            raise InputError(f"rule {self.text}: it makes {listing([filled])}, no name of ours")
        member = self.member
        index = None if member is None else int(values.get(member, member))
        network, layer, part = target.groups()
        return Entry(network, int(layer), part, name, index, self.transpose)


@dataclass(frozen=True)
class RuleFile:
    """What a rule file says; see the module. source: for errors."""

    source: str
    rules: Sequence[_Rule] = ()
    ignore: Sequence[str] = ()
    take: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    gaps_as_ours: bool = False

    def refined(self, names: Iterable[str], source: str) -> tuple[dict[str, str], list[str]]:
        """({name to read: name in the file}, names passed over).

        Raises InputError when an entry matches nothing, and when two names become one.
        """
        names = list(names)
        texts = (*self.ignore, *self.take)
        idle = [text for text in texts if not any(_glob(name, text) for name in names)]
        idle += [old for old in self.rename if not any(_begins(name, old) for name in names)]
        if idle:
            raise InputError(
                f"{source}: these entries of {self.source} match nothing: {listing(idle)}; its "
                f"names are such as {listing(names, most=4)}"
            )
        kept: dict[str, str] = {}
        passed: list[str] = []
        for name in names:
            taken = not self.take or any(_glob(name, text) for text in self.take)
            if not taken or any(_glob(name, text) for text in self.ignore):
                passed.append(name)
                continue
            old = max((o for o in self.rename if _begins(name, o)), key=len, default="")
            new = f"{self.rename[old]}{name[len(old) :]}" if old else name
            if kept.setdefault(new, name) != name:
                raise InputError(f"{source}: {listing([kept[new], name])} are renamed alike")
        return kept, passed


def _begins(name: str, start: str) -> bool:
    return name == start or name.startswith((f"{start}.", f"{start}/"))


def mapping_by_rules(names: Iterable[str], file: RuleFile, source: str) -> NameMapping:
    """The mapping of `names` by the rules of a file.

    Raises InputError on a rule that matches nothing, and on a tensor that no rule, or more than
    one, matches.
    """
    entries: list[Entry] = []
    ignored: list[str] = []
    unmatched: list[str] = []
    used: set[str] = set()
    for name in names:
        found = [(rule, e) for rule in file.rules if (e := rule.entry(name)) is not None]
        skipped = any(_glob(name, text) for text in file.ignore)
        if len(found) + skipped > 1:
            which = [rule.text for rule, _ in found] + (["ignore"] if skipped else [])
            raise mapping_error(
                f"{source}: {listing([name])} is matched more than once ({listing(which)})", entries
            )
        if skipped:
            ignored.append(name)
        elif found:
            used.add(found[0][0].text)
            entries.append(found[0][1])
        else:
            unmatched.append(name)
    idle = [rule.text for rule in file.rules if rule.text not in used]
    if unmatched or idle:
        problems = [f"no rule of {file.source} matches {listing(unmatched)}"] if unmatched else []
        problems += [f"these rules match nothing: {listing(idle)}"] if idle else []
        raise mapping_error(f"{source}: {'; '.join(problems)}", entries)
    return NameMapping(entries, ignored)


def rule_file(given: str | Path | Mapping[str, Any] | None) -> RuleFile:
    """What the rule file at a path says, or its content. Raises InputError on what it must not."""
    if given is None or isinstance(given, Mapping):
        return _checked(given or {}, "rules")
    path = user_path(given)
    try:
        text = path.read_bytes()
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    return _checked(json_object(text, str(path)), str(path))


def _checked(content: Mapping[str, Any], source: str) -> RuleFile:
    unknown = set(content) - {"rules", "ignore", "take", "rename", "gaps"}
    rules, ignore, take = (content.get(name, []) for name in ("rules", "ignore", "take"))
    rename, gaps = content.get("rename", {}), content.get("gaps")
    lists = all(isinstance(entries, list) for entries in (rules, ignore, take))
    if unknown or not lists or not isinstance(rename, dict):
        raise InputError(
            f"{source} must hold a list 'rules' or, to refine the automatic mapping, lists "
            f"'ignore' and 'take', an object 'rename', or 'gaps'; it has: {listing(content)}"
        )
    if len(rules) + len(ignore) + len(take) + len(rename) > _MOST_RULES:
        raise InputError(f"{source} has more than {_MOST_RULES} rules")
    texts = [*ignore, *take, *rename, *rename.values()]
    if not all(isinstance(text, str) and 0 < len(text) <= _LONGEST for text in texts):
        raise InputError(
            f"{source}: 'ignore' and 'take' must be lists of names, * for anything, and 'rename' "
            "from names to names"
        )
    if gaps not in (None, "as ours"):
        raise InputError(f"{source}: 'gaps' can be \"as ours\", got {listing([json.dumps(gaps)])}")
    if rules and (take or rename):
        raise InputError(f"{source}: 'take' and 'rename' refine the automatic mapping: no 'rules'")
    return RuleFile(
        source, [_rule(r, source) for r in rules], ignore, take, rename, gaps is not None
    )


def _glob(name: str, text: str) -> bool:
    """Whether `name` is `text`, in which every * stands for anything. Linear, unlike a regex."""
    if "*" not in text:
        return name == text
    first, *middle, last = text.split("*")
    if not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:
        found = name.find(piece, at, max(end, 0))
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end


def _rule(rule: Any, source: str) -> _Rule:
    if not isinstance(rule, Mapping) or not {"from", "to"} <= set(rule) <= _KEYS:
        raise InputError(
            f"{source}: a rule has 'from' and 'to', perhaps 'member' and 'transpose', got "
            f"{listing([json.dumps(rule)])}"
        )
    start, to = rule["from"], rule["to"]
    transpose, member = rule.get("transpose", False), rule.get("member")
    shown = f"{listing([start])} → {listing([to])}"
    if not (isinstance(start, str) and isinstance(to, str)) or max(len(start), len(to)) > _LONGEST:
        raise InputError(f"{source}: 'from' and 'to' must be names, got {shown}")
    if not isinstance(transpose, bool):
        raise InputError(f"{source}: rule {shown}: transpose must be true or false")
    places = list(_PLACEHOLDER.finditer(start))
    if len(places) > _MOST_PLACES:
        raise InputError(f"{source}: rule {shown}: more than {_MOST_PLACES} placeholders")
    numbers = tuple((m[1], int(m[2] or 1), int(m[3] or 0)) for m in places)
    letters = {letter for letter, _, _ in numbers}
    if transpose and not to.endswith(".kernel"):
        raise InputError(f"{source}: rule {shown}: only a kernel can be transposed")
    if isinstance(member, str) and re.fullmatch(r"\{[a-z]\}", member):
        member = member[1]
    elif member is not None:
        if type(member) is not int or not 0 <= member < 1000:
            raise InputError(f"{source}: rule {shown}: member must be a number or {{e}}")
        member = str(member)
    wanted = {m[1] for m in _PLACEHOLDER.finditer(to)} | ({member} if member else set())
    lacking = {w for w in wanted if not w.isdigit()} - letters
    if lacking or any(m[2] or m[3] for m in _PLACEHOLDER.finditer(to)):
        raise InputError(
            f"{source}: rule {shown}: 'to' and 'member' may use the plain placeholders of 'from'"
        )
    if not _TARGET.fullmatch(_PLACEHOLDER.sub("0", to)):
        raise InputError(
            f"{source}: rule {shown}: 'to' must be NETWORK.layers.NUMBER.PART, NETWORK of "
            f"{', '.join(NETWORKS)}, PART of kernel, bias, scale, offset"
        )
    begins, ends = [0, *(m.end() for m in places)], [*(m.start() for m in places), len(start)]
    pieces = [re.escape(start[a:b]) for a, b in zip(begins, ends, strict=True)]
    pattern = re.compile(r"([0-9]{1,6})".join(pieces), re.DOTALL)
    return _Rule(f"{start} → {to}", pattern, numbers, to, member, transpose)
