//! The topology's file: what `init` writes, `topology show` prints and `topology apply` reads. See `docs/formats/topology.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use causeway_base::SiteName;
use causeway_topology::{
    BitRate, Link, LinkKind, Price, Problem, Region, Repository, Site, Topology, TopologyError, TopologySpec,
};
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;

/// The file with the place of each item.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    regions: Vec<Spanned<Region>>,
    #[serde(default)]
    sites: Vec<Spanned<Site>>,
    #[serde(default)]
    links: Vec<Spanned<Link>>,
    #[serde(default)]
    repositories: Vec<Spanned<Repository>>,
}

/// Reads a topology and checks it as a whole, without nodes: those are added and removed one by one.
///
/// # Errors
/// [`ConfigError`] with the line of the first thing that is wrong, and all reasons.
pub fn load(path: &Path) -> Result<TopologySpec, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
        hint: "`causeway topology show` prints the one that holds now",
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<TopologySpec, ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
    let spec = TopologySpec {
        regions: file.regions.iter().map(|item| item.get_ref().clone()).collect(),
        sites: file.sites.iter().map(|item| item.get_ref().clone()).collect(),
        nodes: Vec::new(),
        links: file.links.iter().map(|item| item.get_ref().clone()).collect(),
        repositories: file.repositories.iter().map(|item| item.get_ref().clone()).collect(),
    };
    if spec.sites.is_empty() {
        return Err(ConfigError::at(path, text, 0..0, "no [[sites]]: at least one is needed"));
    }
    match Topology::new(spec.clone()) {
        Ok(_) => Ok(spec),
        Err(error) => Err(located(path, text, &file, &error)),
    }
}

fn located(path: &Path, text: &str, file: &File, error: &TopologyError) -> ConfigError {
    let mut spans = error.problems.iter().map(|problem| file.span(problem));
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let first = spans.next().flatten().unwrap_or(0..0);
    let mut message = error.problems.first().map(ToString::to_string).unwrap_or_default();
    for (problem, span) in error.problems[1..].iter().zip(spans) {
        let at = span.map_or_else(String::new, |span| format!("line {}: ", line(span.start)));
        let _ = write!(message, "; {at}{problem}");
    }
    ConfigError::at(path, text, first, message)
}

impl File {
    /// Where the item stands that a problem is about.
    fn span(&self, problem: &Problem) -> Option<Range<usize>> {
        match problem {
            Problem::Duplicate { kind, name } => self.named(kind, name, 1),
            Problem::Unknown { by, .. } => self.described(by),
            Problem::SelfLink { link, .. } | Problem::NoRate(link) => self.named("link", link.as_str(), 0),
            Problem::Text { what, .. } => {
                self.described(what.rsplit(" of ").next().unwrap_or(what)).or_else(|| self.named("repository", "", 0))
            }
            Problem::TooMany { kind, .. } => self.all(kind).into_iter().next().map(|(_, span)| span),
            _ => None,
        }
    }

    /// Of `site zurich` and the like.
    fn described(&self, text: &str) -> Option<Range<usize>> {
        let (kind, name) = text.split_once(' ')?;
        self.named(kind, name, 0)
    }

    fn named(&self, kind: &str, name: &str, nth: usize) -> Option<Range<usize>> {
        self.all(kind).into_iter().filter(|(known, _)| known == name).nth(nth).map(|(_, span)| span)
    }

    fn all(&self, kind: &str) -> Vec<(String, Range<usize>)> {
        fn of<T>(items: &[Spanned<T>], name: impl Fn(&T) -> String) -> Vec<(String, Range<usize>)> {
            items.iter().map(|item| (name(item.get_ref()), item.span())).collect()
        }
        match kind {
            "region" => of(&self.regions, |item| item.name.to_string()),
            "site" => of(&self.sites, |item| item.name.to_string()),
            "link" => of(&self.links, |item| item.name.to_string()),
            "repository" => of(&self.repositories, |item| item.name.clone()),
            _ => Vec::new(),
        }
    }
}

/// A topology to begin with: a region for each site, and a link between any two of them. Rates, round trips, prices and
/// jurisdictions are guesses; the operator puts in the real ones.
#[must_use]
pub fn starter(sites: &[(SiteName, String, String)]) -> TopologySpec {
    let mut spec = TopologySpec::default();
    let mut regions = BTreeSet::new();
    for (at, (site, region, provider)) in sites.iter().enumerate() {
        let Ok(name) = region.parse() else { continue };
        let Ok(jurisdiction) = region.parse() else { continue };
        if regions.insert(region.clone()) {
            spec.regions.push(Region { name, jurisdiction, provider: provider.clone() });
        }
        let Ok(region) = region.parse() else { continue };
        spec.sites.push(Site { name: site.clone(), region, lan_rtt: Duration::from_micros(200), transit: false });
        for (other, ..) in &sites[..at] {
            let name = format!("{other}-{site}").parse().or_else(|_| format!("link-{}", spec.links.len() + 1).parse());
            let Ok(name) = name else { continue };
            spec.links.push(Link {
                name,
                between: (other.clone(), site.clone()),
                kind: LinkKind::Internet,
                rate: BitRate(1_000_000_000),
                rtt: Duration::from_millis(20),
                price_per_gib: Price(0),
                priority: 0,
            });
        }
    }
    spec
}

/// A topology as its file, after comment lines.
///
/// # Errors
/// The text form fails: never for a checked topology.
pub fn text(spec: &TopologySpec, comments: &[String]) -> anyhow::Result<String> {
    let mut text: String = comments.iter().map(|line| format!("# {line}\n")).collect();
    let body = toml::to_string(spec)?;
    let lists = ["nodes = []\n", "links = []\n", "repositories = []\n", "regions = []\n"];
    let body = lists.iter().fold(body, |body, empty| body.replace(empty, ""));
    let _ = write!(text, "\n{}", body.trim_start());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starter_text() -> String {
        let site = |name: &str| (name.parse().unwrap(), format!("{name}-region"), "azure".to_owned());
        text(&starter(&[site("zurich"), site("westeurope"), site("eastus")]), &["x".to_owned()]).unwrap()
    }

    #[test]
    fn the_starter_is_a_valid_topology() {
        let spec = parse(Path::new("t.toml"), &starter_text()).unwrap();
        assert_eq!((spec.regions.len(), spec.sites.len(), spec.links.len()), (3, 3, 3));
        assert_eq!(parse(Path::new("t.toml"), &text(&spec, &[]).unwrap()).unwrap(), spec);
    }

    /// Each case breaks one thing of the starter; the error must name the line of the item where it stands.
    #[test]
    fn errors_name_file_and_line() {
        let cases = [
            ("name = \"eastus\"\n", "name = \"zurich\"\n", "site zurich is declared twice"),
            ("region = \"eastus-region\"", "region = \"mars\"", "site eastus names region mars"),
            ("rate = \"1Gbit/s\"", "rate = \"0bit/s\"", "has a rate of 0"),
            ("rate = \"1Gbit/s\"", "rate = \"fast\"", "is not a rate"),
            ("rtt = \"20ms\"", "round_trip = \"20ms\"", "unknown field `round_trip`"),
            ("\"zurich\", \"westeurope\"", "\"zurich\", \"zurich\"", "connects site zurich with itself"),
            ("provider = \"azure\"", "provider = \"\"", "the provider of region zurich-region is empty"),
            ("[[sites]]", "[[nodes]]\nid = 1\nsite = \"zurich\"\n[[sites]]", "unknown field `nodes`"),
        ];
        let good = starter_text();
        for (from, to, expected) in cases {
            assert!(good.contains(from), "{from} in\n{good}");
            let error = parse(Path::new("/etc/t.toml"), &good.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
            let line = error.strip_prefix("/etc/t.toml:").and_then(|rest| rest.split(':').next());
            let line: usize = line.unwrap().parse().unwrap();
            let stands = good[..good.find(from).unwrap()].lines().count() + 1;
            assert!(line <= stands + 1 && line + 8 >= stands && line > 1, "{to}: said line {line}, stands at {stands}");
        }
    }
}
