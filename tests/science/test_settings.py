from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from aiida_mlipal.science.settings import check_integer, check_number, from_dict
from aiida_mlipal.science.training_settings import TrainingSettings


@dataclass(frozen=True)
class Kettle:
    litres: float
    max_iterations: int = 5

    def __post_init__(self) -> None:
        check_number('litres', self.litres, above=0)


def test_reads_and_defaults():
    assert from_dict(Kettle, {'litres': 1.5}) == Kettle(1.5, 5)


def test_unknown_key_names_the_nearest_and_all():
    with pytest.raises(ValueError, match=r'unknown key `max_iteration`. Did you mean `max_iterations`\?.*litres'):
        from_dict(Kettle, {'litres': 1, 'max_iteration': 3})


def test_far_key_gets_no_guess():
    with pytest.raises(ValueError, match=r'unknown key `zzz`\. Valid: litres, max_iterations') as info:
        from_dict(Kettle, {'litres': 1, 'zzz': 3})
    assert 'Did you mean' not in str(info.value)


def test_missing_key_and_bad_value():
    with pytest.raises(ValueError, match=r'Kettle: .*litres'):
        from_dict(Kettle, {})
    with pytest.raises(ValueError, match='`litres` must be a number greater than 0, got -1'):
        from_dict(Kettle, {'litres': -1})


@pytest.mark.parametrize('value', [0, -3, 1.0, '4', True, None])
def test_check_integer_refuses(value):
    with pytest.raises(ValueError, match='`n` must be an integer of at least 1'):
        check_integer('n', value)


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan'), float('inf'), '0.5', True])
def test_check_number_refuses(value):
    with pytest.raises(ValueError, match='`x` must be a number from 0 to 1'):
        check_number('x', value, within=(0, 1))


def test_training_settings_use_the_same_messages():
    with pytest.raises(ValueError, match='lr'):
        from_dict(TrainingSettings, {'lrr': 0.1, 'seeds': [1]})


def test_package_data_is_where_it_is_imported_from():
    """The compute node has this module too: it must not import anything beyond the standard library."""
    import ast

    import aiida_mlipal.science.settings as module

    tree = ast.parse(Path(module.__file__).read_text())
    roots = {name.name.split('.')[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    roots |= {node.module.split('.')[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) if node.module}
    assert roots <= {'__future__', 'collections', 'dataclasses', 'difflib', 'math', 'numbers', 'typing'}
