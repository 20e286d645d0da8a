"""Bytes that writers and readers of compressed models know: an invented net with the layers that most nets have.

The coder takes them in before it codes a net, so that what nets have in common costs little. They are a part of the
format and never change: a NetParameter on the wire, in base 85.
"""

from __future__ import annotations

import base64

PRIMER = base64.b85decode(
    "3Ik4MbfN}X3It?fbYT(%L}7GcA_Qb%bYUU|Y++($Y(fGE0HOvV4FCXuI}iaF-~l2PWMOn+FKuOEZZ2YJZeenHaB^>SZ`uYG3J+vqbYU-aa$#w1"
    "Uu<n;Vjw_30ip&@3It?fbYT(%L}7GcA_Qb%bYUU|Y++($Y(fGE0ip&M4FCXuI~d>rEdT(}LM;FQ>Ow650QN%K1{4YoWMOn+FLY&dbYE<3WMUv>"
    "Kmno#APNLzVRT^<1xapjb#x*GWMOn+`UnaN2nq%P1K<JR0ip(E3I$_tZgw#e3qx;ic5iHTbZKvH8U$ovbYUU|V{dMDF)|7r004kLB>(_`KQam("
    "0000$B>(^b0MZ612w)%!Fa$ae3J7Omb#rrRVQw`F*CRYa4+;olZ*FsRVQzF400000q6QlZ1#)F<bukhIQe{k48U<r-Zgw#u1!He+b}^y`DGCK{"
    "Z*pxh5(7+9P8tPcZ*F!mA_Z=5a&0lP2Mh=W6&JVBI2`~0KtG}eCkh2{Z*Ocd5(iLkZ)|C9XBq`=Z*pxhA_Z`7Z)`Ej2L=cL5Ca$jq6R<;1!He+"
    "b}|wRLvL<&Z)|mRX>V>C1#oX~Y%wAQV{dMDGBO1n004kL(gqX=Ko9^J0U!e?0x$tO1_}gib8=y#21g15Vs0`L2|{6XV`xrqa%~y~V{dMDG9m?I"
    "Z*F!nG72340000b00000G72340000b00000G72340000b00000+6V#&0ip&X3I=myVQghG5(QIZVQgg@1!He+b}}LbV{dMDGV%xlAOWHVB?<*{"
    "WpgrN5(h<Wba!cUWf}!zZ*F!n8U=7~Z)`Cl1#)F`GGU?yAPNd{WpgrNUvgz^brJ+pWlU8X1#)F`GGQVGa%FQeVWI|23I$_tZgw*g3qx;ic5iHT"
    "bZKvH8U=D?b24Ef1!He+b~7>s9RL7;KQaX!0000$(gqp`ARq-g2nq&xVRmU{azY9U2xD(<b97;DbfN|(3I=0uZew9|5(YzWZew9|8U<r-Zgw*o"
    "1#)F`GGQVHV{dL_VRWJfCJF^`Z*Och5(iLkZ)|C9XBq}$Z*F5@bRq?CZ*Och$_E4p0bl{5244yTW@9!I3`uToWpYq*Z)A02bQ%S4Z*OchA_Hb)"
    "HZlqw004kLB>(_`KQam(0000$B>(^b0ICNi2!J3O4+;opVRdtJX<=?P3fH4MA`c1(V{dMAbYX6E6#xK$KcWT~3I%dyY;`sg1X5*8RT=|kV>TiK"
    "W@9#@1|kXtWO8qCHWCL!a&K^Nb#xj7W@9!Y17>43;syl`0000#q6S9_18HzE5)4UhZe?;%a&KgHV{{q=W@9!Y18HzEG6fv~0DwO-1swnY06?k-"
    "83^bH8VCvocwu&FWpW}43J7CwZgX^DZgipsE(!=?V`Fu4VPkm`2ti|Gb#h^2c^U(0a4{MMY++($Y$6C@V`Fu4VPknh0tf-31}O>zY;SXO5)V^v"
    "W^`>~cvoq3XiRT&a~cC_a4{MMY++($Y$60~Z*y~^1{w+kaB^>A5(iUnW^`>~cp3v~a4{kTaB^>A"
)
