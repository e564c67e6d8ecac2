"""Results: rows on disk, tables, figures, pictures, the report and the experiment tracker."""

from certseg.reporting.claims import bracket_status, claim
from certseg.reporting.entries import Entry
from certseg.reporting.masked_pictures import masked_picture
from certseg.reporting.object_outlines import object_panel
from certseg.reporting.pictures import Panel, group_palette, picture
from certseg.reporting.plots import radius_figures, save_figure
from certseg.reporting.report import console_summary, write_report
from certseg.reporting.rows import RowStore, read_rows
from certseg.reporting.run_pictures import run_pictures
from certseg.reporting.storage import read_json, safe_name, write_json_atomic
from certseg.reporting.tables import figure_table
from certseg.reporting.tracking import NoTracking, Tracker, WandbTracking

__all__ = [
    "Entry",
    "NoTracking",
    "Panel",
    "RowStore",
    "Tracker",
    "WandbTracking",
    "bracket_status",
    "claim",
    "console_summary",
    "figure_table",
    "group_palette",
    "masked_picture",
    "object_panel",
    "picture",
    "radius_figures",
    "read_json",
    "read_rows",
    "run_pictures",
    "safe_name",
    "save_figure",
    "write_json_atomic",
    "write_report",
]
