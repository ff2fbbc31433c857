import pytest

from selfcell.core.errors import InputError
from selfcell.data.label_maps import read_label_map


def test_a_map_of_labels_is_a_table_of_two_columns(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("from,to,why\nCD4_Mem,T cell,\nNA,unknown,\n")
    assert read_label_map(path) == {"CD4_Mem": "T cell", "NA": "unknown"}


def test_what_is_no_map_of_labels_is_refused(tmp_path):
    path = tmp_path / "map.csv"
    with pytest.raises(InputError, match="There is no map of labels"):
        read_label_map(path)
    path.write_text("a,b\nc,d\n")
    with pytest.raises(InputError, match="must be a table with the columns from and to, but has a, b"):
        read_label_map(path)
    path.write_text("from,to\n")
    with pytest.raises(InputError, match=r"map\.csv maps nothing"):
        read_label_map(path)
    path.write_text("from,to\nc,d\nc,e\n")
    with pytest.raises(InputError, match="maps 'c' more than once"):
        read_label_map(path)
