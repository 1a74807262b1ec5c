//! The rules one by one, and all of them under random operations.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn wanted(key: &str, parent: Option<&str>, kind: Kind, labels: &[(&str, &str)]) -> Wanted {
    Wanted {
        key: key.to_owned(),
        parent: parent.map(str::to_owned),
        kind,
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn begin(catalog: &mut Catalog, wanted: &Wanted) -> Result<bool, Refusal> {
    match catalog.begin(wanted, NOW)? {
        Begun::Made(change) => {
            catalog.apply(change);
            Ok(true)
        }
        Begun::Target(change) => {
            catalog.apply(change);
            Ok(false)
        }
        Begun::TargetExists => Ok(false),
    }
}

fn active(catalog: &mut Catalog, key: &str, parent: Option<&str>) {
    assert!(begin(catalog, &wanted(key, parent, Kind::Active, &[])).unwrap());
}

fn commit(catalog: &mut Catalog, name: &str, key: &str) -> Result<(), Refusal> {
    let change = catalog.commit((name, key), (Usage::default(), Role::Files), &Labels::new(), NOW)?;
    catalog.apply(change);
    Ok(())
}

fn layer(catalog: &mut Catalog, name: &str, parent: Option<&str>) {
    active(catalog, "unpacking", parent);
    commit(catalog, name, "unpacking").unwrap();
}

fn remove(catalog: &mut Catalog, name: &str) -> Result<(), Refusal> {
    let change = catalog.remove(name)?;
    catalog.apply(change);
    Ok(())
}

#[test]
fn what_may_not_be_is_refused() {
    let mut catalog = Catalog::default();
    layer(&mut catalog, "base", None);
    active(&mut catalog, "container", Some("base"));
    let begin = |key: &str, parent| catalog.begin(&wanted(key, Some(parent), Kind::View, &[]), NOW);
    assert_eq!(begin("x", "missing"), Err(Refusal::NotFound("missing".into())));
    assert!(matches!(begin("x", "container"), Err(Refusal::Invalid(_))));
    assert_eq!(begin("base", "base"), Err(Refusal::Exists("base".into())));
    assert!(matches!(begin("", "base"), Err(Refusal::Invalid(_))));
    assert!(matches!(
        begin(&"x".repeat(5000), "base"),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        catalog.committable("new", "base"),
        Err(Refusal::State { .. })
    ));
    assert_eq!(
        catalog.committable("base", "container"),
        Err(Refusal::Exists("base".into()))
    );
    assert_eq!(
        catalog.committable("new", "missing"),
        Err(Refusal::NotFound("missing".into()))
    );
    assert!(matches!(catalog.remove("base"), Err(Refusal::State { .. })));
    assert_eq!(
        catalog.remove("missing"),
        Err(Refusal::NotFound("missing".into()))
    );
    remove(&mut catalog, "container").unwrap();
    remove(&mut catalog, "base").unwrap();
    assert_eq!(catalog.iter().count(), 0);
}

#[test]
fn a_commit_keeps_the_number_and_replaces_the_labels() {
    let mut catalog = Catalog::default();
    let begun = wanted("key", None, Kind::Active, &[("a", "1")]);
    assert!(self::begin(&mut catalog, &begun).unwrap());
    let id = catalog.get("key").unwrap().id;
    let labels: Labels = [("b".to_owned(), "2".to_owned())].into();
    let usage = Usage { bytes: 7, inodes: 3 };
    let later = NOW + Duration::from_secs(5);
    let change = catalog
        .commit(("name", "key"), (usage, Role::Files), &labels, later)
        .unwrap();
    catalog.apply(change);
    let name = catalog.get("name").unwrap();
    assert_eq!(
        (name.id, name.usage, &name.labels, name.created),
        (id, usage, &labels, later)
    );
    assert!(catalog.get("key").is_err());
}

#[test]
fn labels_are_changed_one_by_one_or_all_together_and_nothing_else_is() {
    let mut catalog = Catalog::default();
    let begun = wanted("key", None, Kind::Active, &[("a", "1"), ("b.c", "2")]);
    assert!(begin(&mut catalog, &begun).unwrap());
    let mut update = |labels: &[(&str, &str)], fields: &[&str]| {
        let labels = wanted("", None, Kind::View, labels).labels;
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let change = catalog.update("key", &labels, &fields, NOW + Duration::from_secs(1))?;
        catalog.apply(change);
        let now = catalog.get("key")?;
        assert_eq!((now.created, now.updated), (NOW, NOW + Duration::from_secs(1)));
        let shown = now.labels.iter().map(|(key, value)| format!("{key}={value} "));
        Ok::<_, Refusal>(shown.collect::<String>())
    };
    assert_eq!(update(&[("b.c", "3")], &["labels.b.c"]).unwrap(), "a=1 b.c=3 ");
    assert_eq!(update(&[], &["labels.a"]).unwrap(), "b.c=3 ");
    assert_eq!(update(&[("x", "y")], &["labels"]).unwrap(), "x=y ");
    assert_eq!(update(&[("z", "1")], &[]).unwrap(), "z=1 ");
    for field in ["parent", "labelsx", "kind"] {
        assert!(
            matches!(update(&[], &[field]), Err(Refusal::Invalid(_))),
            "{field}"
        );
    }
    assert!(matches!(
        update(&[("k", &"v".repeat(70_000))], &[]),
        Err(Refusal::Invalid(_))
    ));
}

#[test]
fn a_layer_of_chunks_is_there_at_once_and_once() {
    let mut catalog = Catalog::default();
    let labels = [(TARGET, "sha256:1"), (NYDUS_BLOB, "true")];
    let of = |key: &str, parent| wanted(key, parent, Kind::Active, &labels);
    assert!(!begin(&mut catalog, &of("ns/1/a", None)).unwrap());
    let there = catalog.get("ns/1/a").unwrap();
    assert_eq!((there.kind, &there.role), (Kind::Committed, &Role::Data));
    // Of another namespace, which shares it; and below another parent, which does not.
    assert_eq!(
        catalog.begin(&of("other/2/a", None), NOW),
        Ok(Begun::TargetExists)
    );
    layer(&mut catalog, "base", None);
    let above = catalog.begin(&of("ns/3/a", Some("base")), NOW);
    assert!(matches!(above, Ok(Begun::Target(_))), "{above:?}");
    // Who does not say what it is for wants to write.
    let plain = wanted("c", None, Kind::Active, &[(NYDUS_BLOB, "true")]);
    assert!(matches!(catalog.begin(&plain, NOW), Ok(Begun::Made(_))));
    let view = wanted("c", None, Kind::View, &labels);
    assert!(matches!(catalog.begin(&view, NOW), Ok(Begun::Made(_))));
}

/// Makes a layer of chunks whose image says that it is called `image`.
fn chunks(catalog: &mut Catalog, key: &str, parent: Option<&str>, image: &str) {
    let labels = [(TARGET, "sha256:1"), (NYDUS_BLOB, "true"), (CRI_IMAGE, image)];
    assert!(!begin(catalog, &wanted(key, parent, Kind::Active, &labels)).unwrap());
}

/// Unpacks an image's metadata on a parent.
fn image(catalog: &mut Catalog, name: &str, parent: Option<&str>) {
    let labels = [(NYDUS_BOOTSTRAP, "true")];
    assert!(begin(catalog, &wanted("unpacking", parent, Kind::Active, &labels)).unwrap());
    assert_eq!(
        catalog.below("unpacking", catalog.get("unpacking").unwrap()),
        Ok(Vec::new()),
        "metadata are unpacked by themselves"
    );
    let role = Role::Image { reference: None };
    let change = catalog.commit((name, "unpacking"), (Usage::default(), role), &Labels::new(), NOW);
    catalog.apply(change.unwrap());
}

#[test]
fn an_image_ends_what_is_shown() {
    let mut catalog = Catalog::default();
    layer(&mut catalog, "base", None);
    chunks(&mut catalog, "chunks", Some("base"), "r.example/a:1");
    image(&mut catalog, "image", Some("chunks"));
    layer(&mut catalog, "above", Some("image"));
    active(&mut catalog, "container", Some("above"));
    let id = |name: &str| catalog.get(name).unwrap().id;
    let below = |name: &str| catalog.below(name, catalog.get(name).unwrap()).unwrap();
    let (above, image) = (Lower::Files(id("above")), Lower::Image(id("image")));
    assert_eq!(below("container"), [above, image]);
    assert_eq!(below("above"), [image]);
    assert_eq!(below("base"), []);
}

/// An image that marks another's layer as chunks would take its files away from whoever has it.
#[test]
fn nothing_is_shown_without_the_files_of_a_layer() {
    let mut catalog = Catalog::default();
    chunks(&mut catalog, "debian", None, "evil.example/a:1");
    chunks(&mut catalog, "more", Some("debian"), "evil.example/a:1");
    for parent in ["debian", "more"] {
        for kind in [Kind::Active, Kind::View] {
            for labels in [[].as_slice(), &[(TARGET, "sha256:9")]] {
                let refused = catalog.begin(&wanted("x", Some(parent), kind, labels), NOW);
                let Err(Refusal::Chunks { name, layer, by }) = &refused else {
                    panic!("{refused:?}")
                };
                let said = (name.as_str(), layer.as_str(), by.as_str());
                assert_eq!(said, ("x", "sha256:1", "evil.example/a:1"));
            }
        }
    }
    // Only metadata may stand there, and an image's chunks above them show no more than those below.
    image(&mut catalog, "image", Some("more"));
    active(&mut catalog, "container", Some("image"));
    chunks(&mut catalog, "again", Some("image"), "evil.example/a:1");
    let refused = catalog.begin(&wanted("x", Some("again"), Kind::View, &[]), NOW);
    assert!(matches!(refused, Err(Refusal::Chunks { .. })), "{refused:?}");
}

#[test]
fn the_image_is_found_from_whatever_stands_on_it() {
    let mut catalog = Catalog::default();
    layer(&mut catalog, "base", None);
    image(&mut catalog, "image", Some("base"));
    layer(&mut catalog, "above", Some("image"));
    for (from, found) in [
        (None, None),
        (Some("base"), None),
        (Some("image"), Some("image")),
        (Some("above"), Some("image")),
        (Some("missing"), None),
    ] {
        assert_eq!(catalog.image(from).map(|(name, _)| name), found, "{from:?}");
    }
    let change = catalog.refer("image", "r.example/a:b").unwrap();
    catalog.apply(change);
    let known = Role::Image {
        reference: Some("r.example/a:b".into()),
    };
    assert_eq!(catalog.get("image").unwrap().role, known);
}

#[test]
fn a_chain_ends_somewhere() {
    let mut catalog = Catalog::default();
    layer(&mut catalog, "0", None);
    for number in 1..CHAIN_MAX {
        layer(&mut catalog, &number.to_string(), Some(&(number - 1).to_string()));
    }
    let top = (CHAIN_MAX - 1).to_string();
    let more = catalog.begin(&wanted("x", Some(&top), Kind::View, &[]), NOW);
    assert!(matches!(more, Err(Refusal::Invalid(_))), "{more:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8, Option<u8>, bool, bool),
    Commit(u8, u8),
    Remove(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..12_u8;
    prop_oneof![
        4 => (name.clone(), prop::option::of(name.clone()), any::<bool>(), any::<bool>())
            .prop_map(|(key, parent, view, data)| Step::Begin(key, parent, view, data)),
        3 => (name.clone(), name.clone()).prop_map(|(to, from)| Step::Commit(to, from)),
        2 => name.prop_map(Step::Remove),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: what must hold does, and no number is given out twice, restarts between.
    #[test]
    fn any_order_keeps_what_must_hold(steps in prop::collection::vec(step(), 1..80)) {
        let (mut catalog, mut given) = (Catalog::default(), std::collections::BTreeSet::new());
        for step in steps {
            match step {
                Step::Begin(key, parent, view, data) => {
                    let (kind, key) = (if view { Kind::View } else { Kind::Active }, key.to_string());
                    let labels: &[_] = if data { &[(TARGET, "t"), (NYDUS_BLOB, "true")] } else { &[] };
                    let parent = parent.map(|parent| parent.to_string());
                    let before = catalog.iter().count();
                    let done = begin(&mut catalog, &wanted(&key, parent.as_deref(), kind, labels));
                    if done.is_ok() && catalog.iter().count() > before {
                        prop_assert!(given.insert(catalog.get(&key).unwrap().id), "a number was given out twice");
                    }
                }
                Step::Commit(to, from) => {
                    let _ = commit(&mut catalog, &to.to_string(), &from.to_string());
                }
                Step::Remove(name) => {
                    let _ = remove(&mut catalog, &name.to_string());
                }
                Step::Restart => {
                    let all = catalog.iter().map(|(name, one)| (name.clone(), one.clone())).collect();
                    let next = catalog.next();
                    let again = Catalog::new(all, next);
                    prop_assert_eq!(again.next(), next);
                    catalog = again;
                }
            }
            prop_assert_eq!(catalog.problems(), Vec::<String>::new());
            for (name, there) in catalog.iter().filter(|(_, there)| there.role != Role::Data) {
                prop_assert!(catalog.below(name, there).is_ok(), "{name} lacks files");
            }
        }
    }
}
