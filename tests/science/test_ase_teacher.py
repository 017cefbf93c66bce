from __future__ import annotations

import pytest

from aiida_mlipal.science.ase_teacher import gives_stress, known_elements, level_of_theory, model_problem
from aiida_mlipal.science.label_settings import LabelSettings
from aiida_mlipal.science.level_of_theory import digest


def _level(calculator='tblite', model=None, **parameters):
    return level_of_theory({'calculator': calculator, 'parameters': parameters}, model)


def test_level_of_theory_is_what_changes_labels():
    """Where a class lies and how loud it is do not count; method, accuracy and model do."""
    assert _level(method='GFN2-xTB') == {'code': 'ase', 'calculator': 'tblite', 'parameters': {'method': 'GFN2-xTB'}}
    assert _level(method='GFN2-xTB') == _level('tblite.ase.TBLite', method='GFN2-xTB', verbosity=0, cache_api=False)
    assert digest(_level(accuracy=1)) == digest(_level(accuracy=1.0))
    assert digest(_level(accuracy=0.1)) != digest(_level(accuracy=1.0))
    assert _level('mace', 'abc', device='cuda') == _level('mace', 'abc')
    assert digest(_level('mace', 'abc')) != digest(_level('mace', 'abd'))
    assert level_of_theory({'calculator': 'emt', 'threads': 4}) == level_of_theory({'calculator': 'emt'})


def test_what_is_known_before_a_job_runs():
    assert gives_stress(LabelSettings(calculator='emt'))
    assert gives_stress(LabelSettings(calculator='tblite'))
    assert not gives_stress(LabelSettings(calculator='ase.calculators.tip3p.TIP3P'))
    assert 'Si' not in known_elements(LabelSettings(calculator='ase.calculators.emt.EMT'))
    assert {'H', 'Rn'} <= set(known_elements(LabelSettings(calculator='tblite')))
    assert 'Fr' not in known_elements(LabelSettings(calculator='tblite'))
    assert known_elements(LabelSettings(calculator='lj')) is None


def test_a_model_where_it_belongs():
    mace = LabelSettings(calculator='mace')
    assert model_problem(mace, True) is None
    assert 'no model was given' in model_problem(mace, False)
    path = LabelSettings(calculator='mace', parameters={'model_paths': ['/models/medium.model']})
    assert model_problem(path, False) is None
    assert 'both `model` and `model_paths`' in model_problem(path, True)
    assert 'takes no `model`' in model_problem(LabelSettings(calculator='emt'), True)


@pytest.mark.parametrize(('name', 'column'), [('charge', 'charge'), ('multiplicity', 'multiplicity')])
def test_what_frames_say_is_not_a_parameter(name, column):
    with pytest.raises(ValueError, match=f'belongs to the frames; set their column `{column}`'):
        LabelSettings(calculator='tblite', parameters={name: 1})
