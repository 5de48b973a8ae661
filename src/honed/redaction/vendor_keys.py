"""Keys and tokens that tell by their shape whose they are: clouds, LLM vendors, code hosts, tools.

Shapes are those that the vendors document or hand out. A vendor whose keys have no shape of their own
(Cohere, Mistral, Datadog, ...) is covered by the names that such keys stand beside (`credentials`).

Counts in wide forms are cut short: a first look need not see the whole token.
"""

from typing import Final

from honed.redaction.pattern import Pattern, token

_CLOUDS: Final = (
    token("aws_key", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", "AKIA[A:16]"),
    token(
        "aws_key", r"ABSK[A-Za-z0-9+/]{100,}={0,2}", "ABSK[a:110]=", wide=r"ABSK[A-Za-z0-9+/]{20}"
    ),
    token("gcp_key", r"AIza[0-9A-Za-z_-]{35}", "AIza[a:35]", wide=r"AIza[0-9A-Za-z_-]{20}"),
    token("gcp_key", r"ya29\.[0-9A-Za-z_-]{20,}", "ya29.[a:60]"),
    token("gcp_key", r"GOCSPX-[0-9A-Za-z_-]{28}", "GOCSPX-[a:28]"),
    token(
        "azure_key",
        r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{20,32}",
        "[a:52]JQQJ99[a:26]",
        wide="JQQJ99",
    ),
    token(
        "azure_key",
        r"[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,34}",
        "[a:3]8Q~[a:34]",
        wide=r"[78]Q~[A-Za-z0-9_~.-]{31}",
    ),
    Pattern(
        kind="azure_key",
        tight=r"(?i)\bsig=([A-Za-z0-9%+/_-]{40,}={0,2})",
        wide=r"(?i)sig=[A-Za-z0-9%+/_-]{40}",
        examples=("https://x.blob.core.windows.net/c/f.csv?sv=2024-11-04&sig=[a:43]%3D",),
    ),
    token("alibaba_key", r"LTAI[A-Za-z0-9]{16,20}\b", "LTAI[a:20]"),
    token("tencent_key", r"AKID[A-Za-z0-9]{32}\b", "AKID[a:32]"),
    token("digitalocean_key", r"do[oprt]_v1_[0-9a-f]{64}", "dop_v1_[f:64]", wide=r"do[oprt]_v1_"),
    token("databricks_key", r"dapi[0-9a-f]{32}", "dapi[f:32]"),
)

_MODELS: Final = (
    token("anthropic_key", r"sk-ant-[A-Za-z0-9_-]{20,}", "sk-ant-api03-[a:93]AA"),
    token("openrouter_key", r"sk-or-v1-[0-9a-f]{64}", "sk-or-v1-[f:64]", wide="sk-or-v1-"),
    token(
        "openai_key",
        r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}",
        "sk-proj-[a:74]T3BlbkFJ[a:74]",
    ),
    # Also DeepSeek, Moonshot and others that took the shape over.
    token("openai_key", r"sk-[A-Za-z0-9]{32,}\b", "sk-[a:20]T3BlbkFJ[a:20]", "sk-[f:32]"),
    token("huggingface_key", r"hf_[A-Za-z0-9]{30,}\b", "hf_[a:34]"),
    token("huggingface_key", r"api_org_[A-Za-z]{34}\b", "api_org_[z:34]"),
    token("groq_key", r"gsk_[A-Za-z0-9]{40,}\b", "gsk_[a:52]"),
    token("xai_key", r"xai-[A-Za-z0-9]{60,}\b", "xai-[a:80]", wide=r"xai-[A-Za-z0-9]{20}"),
    token("perplexity_key", r"pplx-[A-Za-z0-9]{40,}\b", "pplx-[a:48]"),
    token("replicate_key", r"r8_[A-Za-z0-9]{37}\b", "r8_[a:37]"),
    token("together_key", r"tgp_v1_[A-Za-z0-9_-]{40,}", "tgp_v1_[a:43]"),
    token("fireworks_key", r"fw_[A-Za-z0-9]{20,}\b", "fw_[a:24]"),
    token("nvidia_key", r"nvapi-[A-Za-z0-9_-]{60,}", "nvapi-[a:64]", wide="nvapi-"),
    token("cerebras_key", r"csk-[a-z0-9]{40,}\b", "csk-[c:48]"),
    token("voyage_key", r"pa-[A-Za-z0-9_-]{43}\b", "pa-[a:43]"),
    token("elevenlabs_key", r"sk_[0-9a-f]{48}\b", "sk_[f:48]"),
    token("langsmith_key", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}", "lsv2_pt_[f:32]_[f:10]"),
    token(
        "langfuse_key",
        r"sk-lf-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "sk-lf-[f:8]-[f:4]-[f:4]-[f:4]-[f:12]",
    ),
    token("pinecone_key", r"pcsk_[A-Za-z0-9_]{50,}", "pcsk_[a:60]", wide=r"pcsk_"),
    token("tavily_key", r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{20,}\b", "tvly-dev-[a:32]"),
)

_CODE: Final = (
    token("github_token", r"gh[pousr]_[A-Za-z0-9]{36,}", "ghp_[a:36]", "ghs_[a:36]"),
    token(
        "github_token",
        r"github_pat_[A-Za-z0-9_]{50,}",
        "github_pat_[a:22]_[a:59]",
        wide=r"github_pat_",
    ),
    token(
        "gitlab_token",
        r"gl(?:pat|ptt|dt|rt|cbt|oas|soat|agent|imt|ft|ffct)-[A-Za-z0-9_-]{20,}",
        "glpat-[a:20]",
        "glrt-[a:20]",
    ),
    token("npm_token", r"npm_[A-Za-z0-9]{36}\b", "npm_[a:36]"),
    token(
        "pypi_token", r"pypi-AgE[A-Za-z0-9_-]{50,}", "pypi-AgEIcHlwaS5vcmc[a:130]", wide="pypi-AgE"
    ),
    token(
        "rubygems_token", r"rubygems_[0-9a-f]{48}", "rubygems_[f:48]", wide="rubygems_[0-9a-f]{8}"
    ),
    token("cargo_token", r"cio[A-Za-z0-9]{32}\b", "cio[a:32]"),
    token("docker_token", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,}", "dckr_pat_[a:27]"),
    token(
        "atlassian_token",
        r"ATATT3[A-Za-z0-9_=-]{50,}",
        "ATATT3[a:180]=[A:8]",
        wide=r"ATATT3[A-Za-z0-9_=-]{8}",
    ),
    token(
        "terraform_token",
        r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}",
        "[a:14].atlasv1.[a:67]",
        wide=r"\.atlasv1\.",
    ),
    token("vault_token", r"hv[sbr]\.[A-Za-z0-9_-]{24,}", "hvs.[a:90]"),
    token("postman_key", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}", "PMAK-[f:24]-[f:34]", wide="PMAK-"),
    token(
        "age_key",
        r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
        "AGE-SECRET-KEY-1[A:58]",
        wide="AGE-SECRET-KEY-1",
    ),
)

_SERVICES: Final = (
    token("slack_token", r"xox[abeoprs]-[A-Za-z0-9-]{10,}", "xoxb-[d:12]-[d:13]-[a:24]"),
    token("slack_token", r"xapp-[0-9]-[A-Za-z0-9-]{10,}", "xapp-1-A[A:10]-[d:13]-[f:64]"),
    token(
        "slack_webhook",
        r"hooks\.slack\.com/services/[A-Za-z0-9]+/[A-Za-z0-9]+/[A-Za-z0-9]{16,}",
        "https://hooks.slack.com/services/T[A:8]/B[A:8]/[a:24]",
    ),
    token(
        "discord_webhook",
        r"discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_-]{60,}",
        "https://discord.com/api/webhooks/[d:18]/[a:68]",
        wide=r"discord(?:app)?\.com/api/webhooks/",
    ),
    token(
        "discord_token",
        r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",
        "M[a:23].[a:6].[a:38]",
        wide=r"\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27}",
    ),
    token(
        "telegram_token",
        r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b",
        "[d:10]:AA[a:33]",
        wide=r"[0-9]:AA[A-Za-z0-9_-]{33}",
    ),
    token(
        "stripe_key", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}", "sk_live_[a:24]", "rk_test_[a:99]"
    ),
    token("stripe_key", r"whsec_[A-Za-z0-9]{32,}", "whsec_[a:32]"),
    token("twilio_key", r"SK[0-9a-f]{32}\b", "SK[f:32]"),
    token("sendgrid_key", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", "SG.[a:22].[a:43]"),
    token("mailgun_key", r"key-[0-9a-z]{32}\b", "key-[f:32]"),
    token("mailchimp_key", r"[0-9a-f]{32}-us[0-9]{1,2}\b", "[f:32]-us21", wide=r"[0-9a-f]-us[0-9]"),
    token("newrelic_key", r"NRAK-[A-Z0-9]{27}\b", "NRAK-[A:27]"),
    token("grafana_token", r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}", "glsa_[a:32]_[f:8]"),
    token("sentry_token", r"sntry[su]_[A-Za-z0-9+/=_-]{40,}", "sntryu_[f:64]"),
    token("linear_key", r"lin_api_[A-Za-z0-9]{40}\b", "lin_api_[a:40]"),
    token("notion_token", r"(?:ntn|secret)_[A-Za-z0-9]{43,}\b", "ntn_[a:46]", "secret_[a:43]"),
    token(
        "airtable_token",
        r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b",
        "pat[a:14].[f:64]",
        wide=r"pat[A-Za-z0-9]{14}\.",
    ),
    token("shopify_token", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b", "shpat_[f:32]"),
    token("square_token", r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,}", "sq0atp-[a:22]"),
    token("doppler_token", r"dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9._-]{40,}", "dp.pt.[a:43]"),
    token("supabase_key", r"sb(?:p|_secret)_[A-Za-z0-9_-]{30,}", "sbp_[f:40]"),
)

VENDOR_KEYS: Final = (*_CLOUDS, *_MODELS, *_CODE, *_SERVICES)
"""In the order in which a kind is chosen when two patterns find the same text."""
