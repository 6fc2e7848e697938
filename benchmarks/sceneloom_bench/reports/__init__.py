"""What every benchmark writes, and what is made of it: tables, plots, pages, comparisons."""
