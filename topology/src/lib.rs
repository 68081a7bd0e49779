//! Regions, sites, links and policies; placement, path choice and residency. Pure.
