"""Many runs as a folder of static pages: an index of suites, trends over runs, any two runs."""

from evalkit.report.site.site import SiteResult, write_site

__all__ = ["SiteResult", "write_site"]
