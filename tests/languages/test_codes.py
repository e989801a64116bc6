"""Language codes as data sets write them."""

import pytest

from raysel.languages import BACTRIAN_X
from raysel.languages.codes import LanguageError, iso639_3, normalise, variety

# The 31 languages of LangGPS, as Aya names them.
AYA = {
    "Basque": "eu", "Bengali": "bn", "Egyptian Arabic": "arz", "English": "en", "French": "fr", "German": "de",
    "Greek": "el", "Haitian": "ht", "Hindi": "hi", "Indonesian": "id", "Italian": "it", "Japanese": "ja",
    "Korean": "ko", "Moroccan Arabic": "ary", "Najdi Arabic": "ars", "Portuguese": "pt", "Russian": "ru",
    "Simplified Chinese": "zh", "South Levantine Arabic": "ajp", "Spanish": "es", "Standard Arabic": "ar",
    "Swahili": "sw", "Ta'izzi-Adeni Arabic": "acq", "Tamil": "ta", "Telugu": "te", "Thai": "th", "Turkish": "tr",
    "Ukrainian": "uk", "Urdu": "ur", "Vietnamese": "vi", "Yoruba": "yo",
}  # fmt: skip
# The other codes and names of Aya's 65 languages and their dialects.
AYA_MORE = {
    "Amharic": "am", "Burmese": "my", "Cebuano": "ceb", "Central Kurdish": "ckb", "Danish": "da", "Dutch": "nl",
    "Filipino": "tl", "Finnish": "fi", "Gujarati": "gu", "Hausa": "ha", "Hungarian": "hu", "Igbo": "ig",
    "Iranian Persian": "fa", "Irish": "ga", "Javanese": "jv", "Kannada": "kn", "Kyrgyz": "ky", "Lithuanian": "lt",
    "Malayalam": "ml", "Marathi": "mr", "Nepali": "ne", "North Levantine Arabic": "apc", "Northern Kurdish": "ku",
    "Northern Sotho": "nso", "Nyanja": "ny", "Panjabi": "pa", "Plateau Malagasy": "mg", "Polish": "pl", "Serbian": "sr",
    "Shona": "sn", "Sindhi": "sd", "Sinhala": "si", "Somali": "so", "Southern Pashto": "pbt", "Standard Malay": "ms",
    "Sundanese": "su", "Swedish": "sv", "Tosk Albanian": "sq", "Traditional Chinese": "zh", "Wolof": "wo",
    "Xhosa": "xh", "Yorùbá": "yo", "Zulu": "zu",
}  # fmt: skip
FLORES = (
    "ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab "
    "arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn "
    "ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn "
    "ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek "
    "eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn "
    "gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn "
    "hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda "
    "kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl "
    "kmb_Latn kmr_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn "
    "lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl "
    "plt_Latn mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn "
    "nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pes_Arab pol_Latn por_Latn prs_Arab "
    "pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn "
    "slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn "
    "swh_Latn szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn "
    "tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn "
    "vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn"
)
BACTRIAN_X_3 = (
    "afr ara aze ben ces deu eng spa est fas fin fra glg guj heb hin hrv ind ita jpn kat kaz khm kor lit lav mkd mal "
    "mon mar mya nep nld pol pus por ron rus sin slv swe swa tam tel tha tgl tur ukr urd vie xho zho"
)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("sw", "sw"), ("swh", "sw"), ("swh_Latn", "sw"), ("zho", "zh"), ("zh-Hans", "zh"), ("Simplified Chinese", "zh"),
        ("arb", "ar"), ("iw", "he"), ("jp", "ja"), ("quy", "qu"), ("als", "sq"), ("tl", "tl"), ("no", "no"),
        ("pes_Arab", "fa"), ("Swahili", "sw"), ("yor_Latn", "yo"), (" en ", "en"), ("chi", "zh"), ("ger", "de"),
        ("baq", "eu"), ("per", "fa"), ("in", "id"), ("ji", "yi"), ("mo", "ro"), ("sh", "sr"), ("scr", "hr"),
        ("zh_TW", "zh"), ("pt_BR", "pt"), ("prs_Arab", "fa"), ("azb_Arab", "azb"), ("kmr_Latn", "ku"),
        ("Eastern Panjabi", "pa"), ("Standard Tibetan", "bo"), ("Luba-Kasai", "lua"), *AYA.items(), *AYA_MORE.items(),
    ],
)  # fmt: skip
def test_brought_to_one_form(raw: str, code: str) -> None:
    assert normalise(raw) == code
    assert normalise(code) == code


@pytest.mark.parametrize("raw", ["", "xx", "qqq", "mul", "und", "no language at all", "123"])
def test_what_no_standard_knows_is_refused(raw: str) -> None:
    with pytest.raises(LanguageError, match="unknown language"):
        normalise(raw)


def test_every_language_of_bactrian_x_is_itself_and_has_its_639_3_code() -> None:
    assert [normalise(code) for code in BACTRIAN_X] == list(BACTRIAN_X)
    assert " ".join(iso639_3(code)[0] for code in BACTRIAN_X) == BACTRIAN_X_3
    assert [normalise(code) for code in BACTRIAN_X_3.split()] == list(BACTRIAN_X)


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ("sw", ("swa",)), ("swh_Latn", ("swh", "swa")), ("Egyptian Arabic", ("arz", "ara")), ("arb", ("arb", "ara")),
        ("ar", ("ara",)), ("zh-Hant", ("zho",)), ("pbt", ("pbt", "pus")), ("fil", ("fil", "tgl")), ("tl", ("tgl",)),
        ("iw", ("heb",)), ("prs", ("prs", "fas")), ("Ayacucho Quechua", ("quy", "que")),
    ],
)  # fmt: skip
def test_a_language_is_looked_up_as_itself_then_as_its_macrolanguage(raw: str, codes: tuple[str, ...]) -> None:
    assert iso639_3(raw) == codes


def test_varieties_differ_by_language_and_script_but_not_by_spelling() -> None:
    assert variety("sw") == variety("swh_Latn") == variety("Swahili") == ("sw", "Latn")
    assert variety("zho") == variety("zh-Hans") == variety("Simplified Chinese") == ("zh", "Hans")
    assert variety("zh-TW") == variety("zho_Hant") == ("zh", "Hant")
    assert variety("quy") != variety("quz")
    assert variety("prs") != variety("pes")
    # No likely script is known of these: their macrolanguage's.
    assert variety("acq") == ("acq", "Arab")
    assert variety("pbt") == ("pbt", "Arab")


def test_all_of_flores_is_understood_and_only_twi_and_akan_are_one() -> None:
    apart: dict[tuple[str, str], list[str]] = {}
    for code in FLORES.split():
        apart.setdefault(variety(code), []).append(code)
    assert sum(map(len, apart.values())) == 204
    assert [same for same in apart.values() if len(same) > 1] == [["aka_Latn", "twi_Latn"]]
