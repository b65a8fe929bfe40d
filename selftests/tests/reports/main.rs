//! What is made of runs: the page, formats of others, comparisons, and runs of many machines.

mod bisect;
mod compare;
mod engines;
mod fleet;
mod formats;
mod kselftest;
mod ktap_stream;
mod page;
mod runs;
mod slurm;
