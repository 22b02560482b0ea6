"""Is the machine well now: what was seen, judged by catalogues of data, told as conditions."""
