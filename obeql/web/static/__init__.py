"""The files of the page: HTML, style and modules, served as they lie here."""
