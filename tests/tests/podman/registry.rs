//! The article's registry: an image goes there and comes back through port 443, byte for byte, by a certificate that the proxy has
//! by ACME from a server in another pod.

use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::Path;
use std::time::Duration;

use rprox_tests::rootless::acme::Acme;
use rprox_tests::rootless::site::Site;
use rprox_tests::{command, wait};
use serde_json::{Value, json};

/// How large the image is, in MB.
const SIZE: &str = "RPROX_IMAGE_MB";
const LAYERS: u64 = 5;
/// Two copies of it on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);
const NAME: &str = "docker://registry.mydomain.test/random:1";

#[test]
fn skopeo_pushes_an_image_to_the_registry_and_pulls_it_unchanged() {
    let site = Site::start().unwrap();
    site.make_registry().unwrap();
    let acme = Acme::in_pod(&site).unwrap();
    have_certificate_by_acme(&site, &acme);
    let folder = site.host.folder().path();
    let [image, pulled, trust] = ["image", "pulled", "trust"].map(|name| folder.join(name));
    let megabytes = std::env::var(SIZE).map_or(500, |text| text.parse().unwrap());
    make_image(&image, megabytes * 1_000_000);
    fs::create_dir(&trust).unwrap();
    fs::copy(acme.root(), trust.join("ca.crt")).unwrap();

    let copy = |flag: &str, from: &str, to: &str| {
        let mut skopeo = site.host.at_client("skopeo");
        skopeo.args(["copy", "--quiet", "--preserve-digests", flag]).arg(&trust).args([from, to]);
        command::run_within(PATIENCE, &mut skopeo)
            .map_err(|error| format!("{error:#}\n{}", site.log()))
            .unwrap();
    };
    copy("--dest-cert-dir", &format!("dir:{}", image.display()), NAME);
    copy("--src-cert-dir", NAME, &format!("dir:{}", pulled.display()));

    let digests = |folder: &Path| {
        let sums = command::run(
            std::process::Command::new("sha256sum").arg("--").args(files(folder)).current_dir(folder),
        );
        sums.unwrap()
    };
    assert_eq!(digests(&image), digests(&pulled));
}

/// Changes the configuration of the proxy, which takes it at once, to have the registry's certificate by ACME.
fn have_certificate_by_acme(site: &Site, acme: &Acme) {
    site.host.write(".config/rprox/ca.pem", fs::read(acme.ca()).unwrap()).unwrap();
    let configuration = fs::read_to_string(site.host.home().join(".config/rprox/rprox.toml")).unwrap();
    let (before, after) = configuration.split_once("[[certificate]]\n").unwrap();
    let (own, after) = after.split_once("\n\n").unwrap();
    assert!(own.contains("registry.mydomain.test.pem"), "{own}");
    let section = acme.directory("/etc/rprox/ca.pem");
    let changed = format!("{before}{after}\n[acme]\nagree_terms = true\n{section}");
    site.host.write(".config/rprox/rprox.toml", changed).unwrap();
    let answers = || {
        let request = site.host.get("https://registry.mydomain.test/v2/").trust(&acme.root());
        request.send().ok().filter(|answer| answer.status() == Some(200))
    };
    wait::until(wait::READY * 2, "the ACME server's certificate", answers)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", site.log()));
}

/// Makes an image of random layers in the format of skopeo's `dir:`.
fn make_image(folder: &Path, size: u64) {
    fs::create_dir(folder).unwrap();
    let mut random = File::open("/dev/urandom").unwrap();
    let layers: Vec<Value> = (0..LAYERS)
        .map(|_| {
            let layer = folder.join("layer");
            copy(&mut (&mut random).take(size / LAYERS), &mut File::create(&layer).unwrap()).unwrap();
            put(folder, &layer, "application/vnd.oci.image.layer.v1.tar")
        })
        .collect();
    let digests: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": digests }
    });
    let file = folder.join("config");
    fs::write(&file, config.to_string()).unwrap();
    let config = put(folder, &file, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
}

/// Gives `file` its digest as its name, and returns its descriptor.
fn put(folder: &Path, file: &Path, media_type: &str) -> Value {
    let sum = command::run(std::process::Command::new("sha256sum").arg(file)).unwrap();
    let digest = sum.split_whitespace().next().unwrap();
    fs::rename(file, folder.join(digest)).unwrap();
    let size = fs::metadata(folder.join(digest)).unwrap().len();
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
