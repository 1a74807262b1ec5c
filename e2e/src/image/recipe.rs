//! What the images are made of. Data only; `build` does it.

use sha2::{Digest, Sha256};

/// Part of every key: raise it when the way of building changes.
const BUILD_VERSION: u32 = 1;

/// Images that are built, kept and served together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// `bb` (1 MB), `mid` (200 MB in three layers, `gzip` and `zstd`) and `mid2`, which shares two of them.
    Small,
    /// `lazy`: a Python of 80 MB, tagged `gzip` and, for readers of parts, `estargz`.
    Lazy,
    /// `ai`: 1.2 GB in six layers, one of them over 500 MB. For benchmarks.
    Large,
}

/// One image. Its configuration runs `entrypoint`.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) layers: &'static [Layer],
    pub(super) entrypoint: &'static str,
    /// Is there a `zstd` tag beside the `gzip` one?
    pub(super) zstd: bool,
}

/// One layer.
#[derive(Debug)]
pub(super) enum Layer {
    /// Debian packages, installed or (when `extract`) only unpacked.
    Debian {
        name: &'static str,
        packages: &'static str,
        extract: bool,
    },
    /// PyPI wheels, unpacked where Debian's Python finds them.
    Wheels {
        name: &'static str,
        wheels: &'static [&'static str],
    },
}

const PYTHON: Layer = Layer::Debian {
    name: "python",
    packages: "python3-minimal,libpython3.11-stdlib,ca-certificates",
    extract: false,
};
const SCIENCE: Layer = Layer::Wheels {
    name: "science",
    wheels: &["numpy==2.4.6", "scipy==1.17.1", "pandas==3.1.1"],
};
const LEARNING: Layer = Layer::Wheels {
    name: "learning",
    wheels: &[
        "onnxruntime==1.32.0",
        "scikit-learn==1.9.1",
        "transformers==5.23.0",
    ],
};

const SMALL: &[Recipe] = &[
    Recipe {
        name: "bb",
        layers: &[Layer::Debian {
            name: "busybox",
            packages: "busybox-static",
            extract: true,
        }],
        entrypoint: "/bin/busybox",
        zstd: false,
    },
    Recipe {
        name: "mid",
        layers: &[PYTHON, SCIENCE, LEARNING],
        entrypoint: "/usr/bin/python3",
        zstd: true,
    },
    Recipe {
        name: "mid2",
        layers: &[
            PYTHON,
            SCIENCE,
            Layer::Wheels {
                name: "tokens",
                wheels: &["tokenizers==0.23.3", "safetensors==0.8.0"],
            },
        ],
        entrypoint: "/usr/bin/python3",
        zstd: false,
    },
];

const LAZY: &[Recipe] = &[Recipe {
    name: "lazy",
    layers: &[PYTHON],
    entrypoint: "/usr/bin/python3",
    zstd: false,
}];

const LARGE: &[Recipe] = &[Recipe {
    name: "ai",
    layers: &[
        PYTHON,
        SCIENCE,
        Layer::Wheels {
            name: "data",
            wheels: &["pyarrow==26.0.1", "opencv-python-headless==5.0.0.93"],
        },
        LEARNING,
        Layer::Wheels {
            name: "triton",
            wheels: &["triton==3.9.0"],
        },
        Layer::Wheels {
            name: "torch",
            wheels: &["torch==2.15.0"],
        },
    ],
    entrypoint: "/usr/bin/python3",
    zstd: false,
}];

impl Set {
    /// The name of its lock and of its cache folder's first part.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Lazy => "lazy",
            Self::Large => "large",
        }
    }

    /// What it consists of.
    pub(super) fn recipes(self) -> &'static [Recipe] {
        match self {
            Self::Small => SMALL,
            Self::Lazy => LAZY,
            Self::Large => LARGE,
        }
    }

    /// Is there an `estargz` tag of each image?
    pub(super) fn is_lazy(self) -> bool {
        self == Self::Lazy
    }

    /// The cache folder's name: it changes with the recipe.
    pub(super) fn key(self) -> String {
        key(self.name(), &format!("{BUILD_VERSION} {:?}", self.recipes()))
    }
}

impl Layer {
    /// The name of its tar in the cache: equal layers of all sets have one.
    pub(super) fn file(&self) -> String {
        let (Self::Debian { name, .. } | Self::Wheels { name, .. }) = self;
        key(name, &format!("{BUILD_VERSION} {self:?}")) + ".tar"
    }
}

/// `NAME-` and the first 12 digits of the recipe's digest.
fn key(name: &str, recipe: &str) -> String {
    let digest = super::hex(&Sha256::digest(recipe));
    format!("{name}-{}", digest.get(..12).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_recipe() {
        assert_ne!(Set::Small.key(), Set::Large.key());
        assert_ne!(key("a", "one"), key("a", "two"));
        assert_eq!(PYTHON.file(), SMALL[1].layers[0].file());
        assert_ne!(PYTHON.file(), SCIENCE.file());
    }

    #[test]
    fn the_second_image_shares_two_layers() {
        let files = |recipe: &Recipe| recipe.layers.iter().map(Layer::file).collect::<Vec<_>>();
        let (mid, mid2) = (files(&SMALL[1]), files(&SMALL[2]));
        assert_eq!(mid[..2], mid2[..2]);
        assert_ne!(mid[2], mid2[2]);
    }
}
