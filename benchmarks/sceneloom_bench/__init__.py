"""Benchmarks of engines, servers and rendering; bench_command has the subcommands.

harness            flags, maps, servers and reports of all commands
engine_command     engine_candidates, engine_case (model and export), turns, child_process, peaks
server_command     load, loops, load_requests (transports), latencies, server_statistics (Triton's)
mlperf_command     loadgen (a run of LoadGen in its process)
render_command     a data set from end to end; suite_command runs all commands
reports            report (the JSON form), statistics (intervals), tables, headline (the result in
                   a sentence), plots, page, compare, environment
"""
