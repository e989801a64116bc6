"""Languages and subsets as Linguistically-Informed Multilingual Instruction Tuning (arXiv 2410.07809) prints them."""

# Bactrian-X's 52 languages, in the order in which the paper's random draws take them.
_ALPHABETICAL = (
    "af ar az bn cs de en es et fa fi fr gl gu he hi hr id it ja ka kk km ko lt lv mk ml mn mr my ne nl pl ps pt "
    "ro ru si sl sv sw ta te th tl tr uk ur vi xh zh"
)
BACTRIAN_X = tuple(_ALPHABETICAL.split())
# The order of the paper's table of languages, by family and resources: families are drawn from its shuffled rows.
_BY_FAMILY = (
    "ar he sw xh vi km id tl ta ml te de en es fr cs fa hi hr it nl pl pt ru sv af bn gl lt lv ro sl uk ur mr gu "
    "mk ne ps si ja ka ko mn my zh th tr kk az fi et"
)
FAMILY_TABLE = tuple(_BY_FAMILY.split())
PUBLISHED_K = 14
# Table 1: strategy -> seed -> languages. The paper's other FAM and RND rows were put together by hand.
PUBLISHED = {
    "typo": {
        66: "az bn de et fa hi it ja mk sw ta tl vi zh",
        42: "ar az bn de et fa it ja mk sw ta th ur zh",
        10: "ar az bn en fi he hi it ja mk nl sw ta th",
    },
    "geo": {
        66: "af bn et fr gu he hr id ja kk mn sw ta vi",
        42: "af bn et fr he hr id ja ka kk mn ta ur vi",
        10: "af bn et fr he hr id ja kk mn sw ta ur vi",
    },
    "learn": {
        66: "cs hi id km ko lt lv my nl pt sl ta tl vi",
        42: "cs fi hr km ko lt lv my nl pt sl ta uk vi",
        10: "cs hi id ja lt lv nl pt sl sv ta tl tr vi",
    },
    "sem": {
        66: "gl gu ka kk ko ml pl ps si sl sv tl uk vi",
        42: "en fr gl gu ka kk ko pl ps sl sv tl uk vi",
        10: "en gl gu ka kk ko ml pl ps sl sv tl uk vi",
    },
    "fam": {66: "af az et he ja ka ko ml mn my th tl vi xh"},
    "random": {
        66: "cs en et fr hi hr it ja ml mn mr ne pl pt",
        42: "ar az de en es et he hi id ml ps ru sv uk",
    },
}
